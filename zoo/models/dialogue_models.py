"""Visual dialogue: a late-fusion encoder with a discriminative or a generative decoder (Das et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import EncodesImages
from zoo.layers.spatial_attention import COORDINATES, SpatialAttention, flatten_with_coordinates
from zoo.registry.entry import register_model
from zoo.spec import END, IGNORE, PAD, START, UNKNOWN, DialogueSpec
from zoo.tasks.dialogue import SHARED, VisualDialogue

State = tuple[Tensor, Tensor] | None  # h and c of an LSTM
TINY = {
    "encoder_options": {"channels": [4, 4, 8, 8], "downsampling": "stride", "activation": "silu"},
    "hidden_size": 8, "embed_dim": 8,
}  # fmt: skip
RECIPE = {
    "epochs": 12, "batch_size": 64, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "one-cycle",
    "gradient_clip_val": 1.0,
}  # fmt: skip
COMMON = {"tags": ["recurrent", "dialogue"], "data": "shapes-dialogues", "tiny": TINY, "recipe": RECIPE, "paper": "1611.08669"}


class TextEncoder(nn.Module):
    """LSTM encoder of word embeddings.

    Args:
        embed_dim: dimensions of a word embedding.
        hidden_size: dimensions of the hidden state.
    """

    def __init__(self, embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(embed_dim, hidden_size, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states after the first ``lengths`` words, [N, E, hidden_size]; zeros for a length of 0.

        Args:
            words: word embeddings, [N, T, embed_dim].
            lengths: E lengths for each text, int64 [N, E].
        """
        outputs = F.pad(self.lstm(words)[0], (0, 0, 1, 0))
        return outputs.gather(1, lengths[..., None].expand(-1, -1, outputs.shape[-1]))


class QuestionGuidedPooling(nn.Module):
    """Image features for each of several questions: attention, then a relation network on what was attended to.

    Attention finds the object in question. Each cell of the feature map is paired with it, and the pairs are averaged, as in a
    relation network (Santoro et al. 2017, arXiv:1706.01427) with one object given: so neighboring objects are found and counted.

    Args:
        features: channels of the feature map.
        hidden_size: dimensions of queries and of each of the two parts of the output.
    """

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        features += COORDINATES
        self.attention = SpatialAttention(hidden_size, features, hidden_size)
        self.attended = nn.Linear(features, hidden_size)
        self.cell = nn.Linear(features, hidden_size, bias=False)
        self.given = nn.Linear(features + hidden_size, hidden_size)
        self.pair = nn.Linear(hidden_size, hidden_size)

    def forward(self, map: Tensor, query: Tensor) -> Tensor:
        """[N, R, 2 * hidden_size] for a feature map [N, features, rows, columns] and queries [N, R, hidden_size]."""
        cells = flatten_with_coordinates(map)
        attended, _ = self.attention(query, self.attention.keys(cells), cells)
        # one linear layer on the concatenation of cell, attended features and query, each part computed only once
        pairs = self.cell(cells)[:, None] + self.given(torch.cat([attended, query], -1))[:, :, None]
        return torch.cat([self.attended(attended).relu(), self.pair(pairs.relu()).relu().mean(2)], -1)


class LateFusion(EncodesImages, VisualDialogue):
    """Late-fusion encoder (Das et al. 2017, section 4.1): image, history and question are encoded apart, then fused.

    The history is one text, the caption and all previous rounds, encoded once for all rounds. Question and history
    query the image.

    Args:
        history: encode caption and previous rounds; false is the question alone.
        hidden_size: dimensions of hidden states and fused features.
        embed_dim: dimensions of a word embedding.
        dropout: dropout probability before the fusion layers.
    """

    def __init__(
        self,
        spec: DialogueSpec,
        recipe: Recipe | None = None,
        history: bool = True,
        hidden_size: int = 128,
        embed_dim: int = 64,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        require_positive(hidden_size=hidden_size, embed_dim=embed_dim)
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim, padding_idx=PAD)
        self.question = TextEncoder(embed_dim, hidden_size)
        self.history = TextEncoder(embed_dim, hidden_size) if history else None
        self.query = nn.Linear(2 * hidden_size if history else hidden_size, hidden_size)
        self.pooling = QuestionGuidedPooling(self.encoder.features, hidden_size)
        self.dropout = make_dropout(dropout)
        self.fusion = nn.Linear(3 * hidden_size, hidden_size)
        self.add_decoder(hidden_size, embed_dim)

    def add_decoder(self, hidden_size: int, embed_dim: int) -> None:
        """Add the decoder's modules, ``head`` among them."""
        raise NotImplementedError

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        words = self.encode_text(self.question, batch["questions"])
        if self.history is not None:
            text, lengths = history_of(batch)
            words = torch.cat([words, self.history(self.embedding(text), lengths)], -1)
        query = self.query(self.dropout(words)).relu()
        image = self.pooling(self.encoder(batch["images"]), query)
        return self.fusion(self.dropout(torch.cat([image, query], -1))).tanh()

    def encode_text(self, encoder: TextEncoder, texts: Tensor) -> Tensor:
        """Last hidden state of each text, [..., hidden_size], for texts int64 [..., T]."""
        rows = texts.flatten(0, -2)
        return encoder(self.embedding(rows), (rows != PAD).sum(1, keepdim=True)).view(*texts.shape[:-1], -1)

    def stages(self) -> dict[str, nn.Module]:
        history = {} if self.history is None else {"history": self.history}
        fusion = {"query": self.query, "pooling": self.pooling, "fusion": self.fusion}
        text = {"embedding": self.embedding, "question": self.question, **history}
        return {"encoder": self.encoder, **text, **fusion, "head": self.head}


def history_of(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Caption and all rounds but the last as one text, int64 [N, T], and its length before each round, [N, R]."""
    rounds = torch.cat([batch["questions"], batch["answers"]], 2)[:, :-1]
    text = torch.cat([batch["captions"], rounds.flatten(1)], 1)
    lengths = torch.cat([(batch["captions"] != PAD).sum(1, keepdim=True), (rounds != PAD).sum(2)], 1)
    order = (text == PAD).to(torch.uint8).argsort(dim=1, stable=True)  # stable: padding moves behind the words
    return text.gather(1, order), lengths.cumsum(1)


@register_model("dialogue-discriminative", task="dialogue", **COMMON)
class DiscriminativeDialogue(LateFusion):
    """Late fusion, discriminative (Das et al. 2017): scores candidate answers by their dot product with the encoding."""

    def add_decoder(self, hidden_size: int, embed_dim: int) -> None:
        self.head = TextEncoder(embed_dim, hidden_size)

    def scores(self, encoding: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return (encoding @ self.encode_text(self.head, batch[SHARED]).T).gather(2, batch["candidates"])

    def compute_losses(self, encoding: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        labels = batch["labels"]
        scores = _exact(self.scores(encoding, batch)).transpose(1, 2)
        return F.cross_entropy(scores, labels, reduction="none", ignore_index=IGNORE), labels != IGNORE

    def generate_answer(self, batch: dict[str, Tensor]) -> list[str]:
        words = [[*self.spec.encode(answer.split()), END] for answer in self.spec.answers]
        table = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in words], batch_first=True, padding_value=PAD)
        scores = self.encode(batch)[0, -1] @ self.encode_text(self.head, table.to(self.device)).T
        return self.spec.answers[int(scores.argmax())].split()


@register_model("dialogue-generative", task="dialogue", **COMMON)
class GenerativeDialogue(LateFusion):
    """Late fusion, generative (Das et al. 2017): an LSTM decoder; candidates are ranked by log-likelihood."""

    def add_decoder(self, hidden_size: int, embed_dim: int) -> None:
        self.decoder = nn.LSTM(embed_dim, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, len(self.spec.vocabulary))

    def stages(self) -> dict[str, nn.Module]:
        stages = super().stages()
        head = stages.pop("head")
        return {**stages, "decoder": self.decoder, "head": head}

    def decode(self, words: Tensor, encoding: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Logits of the next word at each step, [N, T, vocabulary], and the last state.

        Args:
            words: int64 [N, T].
            encoding: [N, hidden_size]; initial hidden state, and added to each output: as initial state alone it is ignored for
                long, and only word frequencies are learned.
            state: state returned by an earlier call.
        """
        initial = (encoding[None].contiguous(), torch.zeros_like(encoding)[None])
        outputs, state = self.decoder(self.embedding(words), state or initial)
        return _exact(self.head(outputs + encoding[:, None])), state

    def word_losses(self, encoding: Tensor, answers: Tensor) -> Tensor:
        """Negative log-likelihood of each word of an answer in nats, [N, R, A], 0 after its ``END``."""
        words = answers.flatten(0, 1)
        inputs = F.pad(words, (1, 0), value=START)[:, :-1]  # teacher forcing
        scores, _ = self.decode(inputs, encoding.flatten(0, 1))
        losses = F.cross_entropy(scores.transpose(1, 2), words, reduction="none", ignore_index=PAD)
        return losses.view(answers.shape)

    def compute_losses(self, encoding: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.word_losses(encoding, batch["answers"]), batch["answers"] != PAD

    def scores(self, encoding: Tensor, batch: dict[str, Tensor]) -> Tensor:
        words = batch[SHARED]
        # one candidate at a time, for memory
        return torch.stack(
            [-self.word_losses(encoding, words[candidate]).sum(-1) for candidate in batch["candidates"].unbind(-1)], -1
        )

    def generate_answer(self, batch: dict[str, Tensor]) -> list[str]:
        encoding = self.encode(batch)[:, -1]
        word, state = torch.full((1, 1), START, device=self.device), None
        generated: list[int] = []
        while len(generated) < self.spec.length:
            scores, state = self.decode(word, encoding, state)
            scores[..., [PAD, START, UNKNOWN]] = -torch.inf
            word = scores.argmax(-1)
            generated.append(int(word))
            if generated[-1] == END:
                break
        return self.spec.decode(generated)


def _exact(scores: Tensor) -> Tensor:
    """At least float32, whatever precision the network runs in."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
