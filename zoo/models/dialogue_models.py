"""Visual dialogue: an encoder of picture, history and question, and two ways to an answer: choosing one, and writing one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import ImageEncoder
from zoo.layers.map_attention import MapAttention
from zoo.layers.map_cells import PLACE, with_places
from zoo.registry.entry import register_model
from zoo.spec import END, IGNORE, PAD, START, UNKNOWN, DialogueSpec
from zoo.tasks.dialogue import SHARED, VisualDialogue
from zoo.tasks.task import Task

State = tuple[Tensor, Tensor] | None  # of an LSTM
TINY = {
    "encoder_options": {"channels": [4, 4, 8, 8], "downsampling": "stride", "activation": "silu"},
    "hidden_size": 8, "embed_dim": 8,
}  # fmt: skip
RECIPE = {
    "epochs": 12, "batch_size": 64, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "one-cycle",
    "gradient_clip_val": 1.0,
}  # fmt: skip


class Reader(nn.Module):
    """An LSTM over the words of texts.

    Args:
        embed_dim: numbers that stand for a word.
        hidden_size: units.
    """

    def __init__(self, embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(embed_dim, hidden_size, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """What is known after so many words of each text, [N, E, hidden]; zeros after none.

        Args:
            words: their embeddings, [N, T, embedding].
            lengths: of E beginnings of each text, int64 [N, E].
        """
        outputs = F.pad(self.lstm(words)[0], (0, 0, 1, 0))
        return outputs.gather(1, lengths[..., None].expand(-1, -1, outputs.shape[-1]))


class Sight(nn.Module):
    """What a picture tells about each of several questions.

    First one look for what a question speaks of: attention over the cells of the map. Then all cells are held against what was
    found, and the outcome is averaged, as in a relation network (Santoro et al. 2017, arXiv:1706.01427) of which one object of
    each pair is given: so things beside it are found and counted.

    Args:
        features: of a cell of the map.
        hidden_size: width of the query and of what comes out.
    """

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        features += PLACE
        self.attention = MapAttention(hidden_size, features, hidden_size)
        self.found = nn.Linear(features, hidden_size)
        self.cell = nn.Linear(features, hidden_size, bias=False)
        self.given = nn.Linear(features + hidden_size, hidden_size)
        self.pair = nn.Linear(hidden_size, hidden_size)

    def forward(self, map: Tensor, query: Tensor) -> Tensor:
        """[n, R, 2 * hidden] for a map [n, features, rows, columns] and queries [n, R, hidden]."""
        cells = with_places(map)
        found, _ = self.attention(query, self.attention.keys(cells), cells)
        # a layer over cell, what was found and query, side by side; but each part of the sum is only computed once
        pairs = self.cell(cells)[:, None] + self.given(torch.cat([found, query], -1))[:, :, None]
        return torch.cat([self.found(found).relu(), self.pair(pairs.relu()).relu().mean(2)], -1)


class LateFusion(VisualDialogue):
    """A late-fusion encoder: picture, history and question are encoded apart and then joined (Das et al. 2017, section 4.1).

    The history is one text, the caption and all questions and answers so far, which is read once for all rounds. What is looked
    for in the picture depends on question and history.

    Args:
        encoder: an image network of the zoo, as in resnet20.
        encoder_options: its options, as in {"width": 32}; for another network than the default, {} takes that one's own.
        encoder_weights: initial weights: pretrained, or the name or path of a run; empty is random initialization.
        freeze_encoder: leave it as it is, and compute its features of each picture only once.
        history: whether the rounds before and the caption are seen.
        hidden_size: units of each part.
        embed_dim: numbers for a word.
        dropout: share of units silenced in front of joining.
    """

    def __init__(
        self,
        spec: DialogueSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {"channels": [16, 32, 64], "norm": "batch"},  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        history: bool = True,
        hidden_size: int = 128,
        embed_dim: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if min(hidden_size, embed_dim) < 1:
            raise UserError(f"model.hidden_size={hidden_size}, model.embed_dim={embed_dim}: both must be at least 1")
        self.encoder = ImageEncoder(encoder, spec.image, recipe, encoder_options, encoder_weights, freeze_encoder)
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim, padding_idx=PAD)
        self.question = Reader(embed_dim, hidden_size)
        self.history = Reader(embed_dim, hidden_size) if history else None
        self.query = nn.Linear(2 * hidden_size if history else hidden_size, hidden_size)
        self.sight = Sight(self.encoder.features, hidden_size)
        self.dropout = make_dropout(dropout)
        self.joined = nn.Linear(3 * hidden_size, hidden_size)
        self.add_decoder(hidden_size, embed_dim)

    def add_decoder(self, hidden_size: int, embed_dim: int) -> None:
        """Make what leads from what is known to an answer, ``head`` among it."""
        raise NotImplementedError

    def load_pretrained(self, open_run: Callable[[str], Task]) -> None:
        self.encoder.load_pretrained(open_run)

    def prepare(self, data: Any) -> None:
        self.encoder.prepare(data)

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        words = self.read(self.question, batch["questions"])
        if self.history is not None:
            text, lengths = history_of(batch)
            words = torch.cat([words, self.history(self.embedding(text), lengths)], -1)
        query = self.query(self.dropout(words)).relu()
        seen = self.sight(self.encoder(batch["images"]), query)
        return self.joined(self.dropout(torch.cat([seen, query], -1))).tanh()

    def read(self, reader: Reader, texts: Tensor) -> Tensor:
        """What is known after all words of each text, [..., hidden], for texts int64 [..., T]."""
        rows = texts.flatten(0, -2)
        return reader(self.embedding(rows), (rows != PAD).sum(1, keepdim=True)).view(*texts.shape[:-1], -1)

    def stages(self) -> dict[str, nn.Module]:
        reading = {"question": self.question} if self.history is None else {"question": self.question, "history": self.history}
        joining = {"query": self.query, "sight": self.sight, "joined": self.joined}
        return {"encoder": self.encoder, "embedding": self.embedding, **reading, **joining, "head": self.head}


def history_of(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The caption and all rounds but the last as one text, int64 [n, T], and how much of it lies before each round, [n, R]."""
    rounds = torch.cat([batch["questions"], batch["answers"]], 2)[:, :-1]
    text = torch.cat([batch["captions"], rounds.flatten(1)], 1)
    lengths = torch.cat([(batch["captions"] != PAD).sum(1, keepdim=True), (rounds != PAD).sum(2)], 1)
    order = (text == PAD).to(torch.uint8).argsort(dim=1, stable=True)  # words first, in their order
    return text.gather(1, order), lengths.cumsum(1)


@register_model("dialogue-discriminative", task="dialogue", tags=["recurrent", "dialogue"], data="shapes-dialogues", tiny=TINY,
                recipe=RECIPE, paper="1611.08669")  # fmt: skip
class DiscriminativeDialogue(LateFusion):
    """Visual dialogue that chooses among answers: each is scored by its product with what the encoder knows."""

    def add_decoder(self, hidden_size: int, embed_dim: int) -> None:
        self.head = Reader(embed_dim, hidden_size)

    def scores(self, encoding: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return (encoding @ self.read(self.head, batch[SHARED]).T).gather(2, batch["candidates"])

    def compute_losses(self, encoding: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        labels = batch["labels"]
        scores = _exact(self.scores(encoding, batch)).transpose(1, 2)
        return F.cross_entropy(scores, labels, reduction="none", ignore_index=IGNORE), labels != IGNORE

    def generate_answer(self, batch: dict[str, Tensor]) -> list[str]:
        known = self.spec.answers
        words = [[*self.spec.encode(answer.split()), END] for answer in known]
        table = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in words], batch_first=True, padding_value=PAD)
        scores = self.encode(batch)[0, -1] @ self.read(self.head, table.to(self.device)).T
        return known[int(scores.argmax())].split()


@register_model("dialogue-generative", task="dialogue", tags=["recurrent", "dialogue"], data="shapes-dialogues", tiny=TINY,
                recipe=RECIPE, paper="1611.08669")  # fmt: skip
class GenerativeDialogue(LateFusion):
    """Visual dialogue that writes its answers word by word; candidates are ranked by how likely it is to write them."""

    def add_decoder(self, hidden_size: int, embed_dim: int) -> None:
        self.decoder = nn.LSTM(embed_dim, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, len(self.spec.vocabulary))

    def stages(self) -> dict[str, nn.Module]:
        stages = super().stages()
        head = stages.pop("head")
        return {**stages, "decoder": self.decoder, "head": head}

    def decode(self, words: Tensor, encoding: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Scores of the word behind each of N texts, [N, T, vocabulary], and the state behind the last.

        Args:
            words: int64 [N, T].
            encoding: what is known, [N, hidden]: what the LSTM begins with, and a part of what each word is chosen by, or else
                for long only the frequencies of words would be learned.
            state: what an earlier call gave.
        """
        begin = (encoding[None].contiguous(), torch.zeros_like(encoding)[None])
        outputs, state = self.decoder(self.embedding(words), state or begin)
        return _exact(self.head(outputs + encoding[:, None])), state

    def word_losses(self, encoding: Tensor, answers: Tensor) -> Tensor:
        """Nats of each word of an answer, [n, R, A], 0 behind its ``END``."""
        words = answers.flatten(0, 1)
        given = F.pad(words, (1, 0), value=START)[:, :-1]
        scores, _ = self.decode(given, encoding.flatten(0, 1))
        losses = F.cross_entropy(scores.transpose(1, 2), words, reduction="none", ignore_index=PAD)
        return losses.view(answers.shape)

    def compute_losses(self, encoding: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.word_losses(encoding, batch["answers"]), batch["answers"] != PAD

    def scores(self, encoding: Tensor, batch: dict[str, Tensor]) -> Tensor:
        words = batch[SHARED]
        # one candidate at a time: all at once would need a hundred times the memory
        return torch.stack(
            [-self.word_losses(encoding, words[candidate]).sum(-1) for candidate in batch["candidates"].unbind(-1)], -1
        )

    def generate_answer(self, batch: dict[str, Tensor]) -> list[str]:
        encoding = self.encode(batch)[:, -1]
        word, state = torch.full((1, 1), START, device=self.device), None
        written: list[int] = []
        while len(written) < self.spec.length:
            scores, state = self.decode(word, encoding, state)
            scores[..., [PAD, START, UNKNOWN]] = -torch.inf
            word = scores.argmax(-1)
            written.append(int(word))
            if written[-1] == END:
                break
        return self.spec.decode(written)


def _exact(scores: Tensor) -> Tensor:
    """In 32 bits or more, whatever the network computes in."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
