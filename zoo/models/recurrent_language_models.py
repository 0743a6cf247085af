"""Recurrent language models over characters: vanilla RNN, GRU and LSTM, on torch's fused cells."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.registry.entry import register_model
from zoo.spec import TextSpec
from zoo.tasks.language_modeling import LanguageModel, State

TINY = {"hidden_size": 16, "num_layers": 2}
RECIPE = {
    "epochs": 12, "batch_size": 64, "optimizer": "adamw", "lr": 4e-3, "weight_decay": 0.01, "schedule": "one-cycle",
    "gradient_clip_val": 1.0,
}  # fmt: skip
VANILLA_RECIPE = {
    "epochs": 12, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "one-cycle",
    "gradient_clip_val": 1.0,
}  # fmt: skip
STREAM = {"seq_len": 128}


class RecurrentLanguageModel(LanguageModel):
    """An embedding, recurrent layers, and a score for each character.

    Args:
        hidden_size: units of each recurrent layer.
        num_layers: recurrent layers, one upon the other.
        dropout: share of units silenced between layers, and in front of the head.
        input: embedding, a learned vector for each character; or one-hot, with which the first layer learns it.
        tie_weights: the head's weights are the embedding's (Press and Wolf 2016), which then has ``hidden`` values.
    """

    cell: ClassVar[type[nn.RNNBase]]

    def __init__(
        self,
        spec: TextSpec,
        recipe: Recipe,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
        input: Literal["embedding", "one-hot"] = "embedding",
        tie_weights: bool = False,
    ) -> None:
        super().__init__(spec, recipe)
        if min(hidden_size, num_layers) < 1:
            raise UserError(f"model.hidden_size={hidden_size}, model.num_layers={num_layers}: both must be at least 1")
        if tie_weights and input == "one-hot":
            raise UserError("model.tie_weights=true: the head can share an embedding's weights, and model.input=one-hot has none")
        size = len(spec.vocabulary)
        self.dropout = make_dropout(dropout)
        self.embedding = nn.Embedding(size, hidden_size) if input == "embedding" else None
        between = dropout if num_layers > 1 else 0.0  # torch warns of one that has no place
        self.recurrent = self.cell(
            hidden_size if self.embedding else size, hidden_size, num_layers, batch_first=True, dropout=between
        )
        self.head = nn.Linear(hidden_size, size)
        if tie_weights:
            self.embedding.weight = self.head.weight

    def embedded(self, tokens: Tensor) -> Tensor:
        """What enters the first recurrent layer, [N, T, its input size]."""
        if self.embedding is None:
            return F.one_hot(tokens, len(self.spec.vocabulary)).to(self.head.weight.dtype)
        return self.embedding(tokens)

    def forward(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        outputs, state = self.recurrent(self.embedded(tokens), state)
        return self.head(self.dropout(outputs)), state

    def stages(self) -> dict[str, nn.Module]:
        first = {} if self.embedding is None or self.embedding.weight is self.head.weight else {"embedding": self.embedding}
        return {**first, "recurrent": self.recurrent, "head": self.head}


@register_model("char-rnn", task="language-modeling", tags=["recurrent"], data="pydoc", data_options=STREAM, tiny=TINY,
                recipe=VANILLA_RECIPE)  # fmt: skip
class CharRNN(RecurrentLanguageModel):
    """Vanilla recurrent network over characters (Elman 1990).

    Args:
        nonlinearity: of the recurrence.
    """

    cell = nn.RNN

    def __init__(
        self,
        spec: TextSpec,
        recipe: Recipe,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
        input: Literal["embedding", "one-hot"] = "embedding",
        tie_weights: bool = False,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        super().__init__(spec, recipe, hidden_size, num_layers, dropout, input, tie_weights)
        tanh = self.recurrent
        self.recurrent = nn.RNN(tanh.input_size, hidden_size, num_layers, nonlinearity, batch_first=True, dropout=tanh.dropout)


@register_model("char-gru", task="language-modeling", tags=["recurrent"], data="pydoc", data_options=STREAM, tiny=TINY,
                recipe=RECIPE, paper="1406.1078")  # fmt: skip
class CharGRU(RecurrentLanguageModel):
    """Gated recurrent units over characters (Cho et al. 2014)."""

    cell = nn.GRU


@register_model("char-lstm", task="language-modeling", tags=["recurrent"], data="pydoc", data_options=STREAM, tiny=TINY,
                recipe=RECIPE)  # fmt: skip
class CharLSTM(RecurrentLanguageModel):
    """Long short-term memory over characters (Hochreiter and Schmidhuber 1997)."""

    cell = nn.LSTM
