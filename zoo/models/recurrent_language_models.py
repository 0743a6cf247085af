"""Character-level recurrent language models: vanilla RNN, GRU and LSTM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
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
COMMON = {"tags": ["recurrent"], "data": "pydoc", "data_options": {"seq_len": 128}, "tiny": TINY}


class RecurrentLanguageModel(LanguageModel):
    """Recurrent language model: embedding, recurrent layers of torch, and a linear head.

    Args:
        hidden_size: dimensions of the hidden state.
        num_layers: stacked recurrent layers.
        dropout: dropout probability between layers and before the head.
        input: embedding, a learned vector for each character; or one-hot.
        tie_weights: share the weights of embedding and head (Press and Wolf 2016).
    """

    cell: ClassVar[type[nn.RNNBase]]

    def __init__(
        self,
        spec: TextSpec,
        recipe: Recipe | None = None,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
        input: Literal["embedding", "one-hot"] = "embedding",
        tie_weights: bool = False,
    ) -> None:
        super().__init__(spec, recipe)
        require_positive(hidden_size=hidden_size, num_layers=num_layers)
        if tie_weights and input == "one-hot":
            raise UserError("model.tie_weights=true: there is no embedding to tie with model.input=one-hot")
        size = len(spec.vocabulary)
        self.dropout = make_dropout(dropout)
        self.embedding = nn.Embedding(size, hidden_size) if input == "embedding" else None
        between = dropout if num_layers > 1 else 0.0  # torch warns of dropout with a single layer
        self.recurrent = self.cell(
            hidden_size if self.embedding else size, hidden_size, num_layers, batch_first=True, dropout=between
        )
        self.head = nn.Linear(hidden_size, size)
        if tie_weights:
            self.embedding.weight = self.head.weight

    def embed(self, tokens: Tensor) -> Tensor:
        """Inputs of the first recurrent layer, [N, T, input_size]."""
        if self.embedding is None:
            return F.one_hot(tokens, len(self.spec.vocabulary)).to(self.head.weight.dtype)
        return self.embedding(tokens)

    def forward(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        outputs, state = self.recurrent(self.embed(tokens), state)
        return self.head(self.dropout(outputs)), state

    def stages(self) -> dict[str, nn.Module]:
        first = {} if self.embedding is None or self.embedding.weight is self.head.weight else {"embedding": self.embedding}
        return {**first, "recurrent": self.recurrent, "head": self.head}


@register_model("char-rnn", task="language-modeling", recipe={**RECIPE, "lr": 1e-3}, **COMMON)
class CharRNN(RecurrentLanguageModel):
    """Character-level RNN language model (Elman 1990): the vanilla recurrent network.

    Args:
        nonlinearity: activation function, tanh or relu.
    """

    cell = nn.RNN

    def __init__(
        self,
        spec: TextSpec,
        recipe: Recipe | None = None,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        rnn = self.recurrent
        sizes = rnn.input_size, rnn.hidden_size, rnn.num_layers
        self.recurrent = nn.RNN(*sizes, nonlinearity, batch_first=True, dropout=rnn.dropout)


@register_model("char-gru", task="language-modeling", recipe=RECIPE, paper="1406.1078", **COMMON)
class CharGRU(RecurrentLanguageModel):
    """Character-level GRU language model: gated recurrent units (Cho et al. 2014)."""

    cell = nn.GRU


@register_model("char-lstm", task="language-modeling", recipe=RECIPE, **COMMON)
class CharLSTM(RecurrentLanguageModel):
    """Character-level LSTM language model: long short-term memory (Hochreiter and Schmidhuber 1997)."""

    cell = nn.LSTM
