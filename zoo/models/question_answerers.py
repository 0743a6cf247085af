"""Networks that answer questions about pictures: LSTM with a picture, stacked attention, and the relation network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import ImageEncoder
from zoo.layers.map_cells import PLACE, with_places
from zoo.layers.norms import norm_1d
from zoo.layers.sentence_encoder import SentenceEncoder
from zoo.registry.annotations import Norm
from zoo.registry.entry import register_model
from zoo.spec import PAD, QuestionSpec
from zoo.tasks.question_answering import QuestionAnswerer
from zoo.tasks.task import Task

SMALL_MAP = {"channels": [24, 24, 24, 24], "norm": "batch", "downsampling": "stride"}  # of Santoro et al. 2017, section 4
TINY = {
    "encoder_options": {"channels": [4, 4, 8, 8], "norm": "batch", "downsampling": "stride"}, "hidden_size": 12, "embed_dim": 8,
}  # fmt: skip
TINY_RELATIONS = {
    "encoder_options": {"channels": [4, 4, 8, 8], "norm": "batch", "downsampling": "stride"}, "hidden_size": 8, "embed_dim": 8,
    "film_dim": 12, "relation_dims": [12, 8], "answer_dims": [12, 12],
}  # fmt: skip
# pictures have many questions each, so that few pictures make a large batch, and steps are what learning takes
RECIPE = {
    "epochs": 12, "batch_size": 8, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine",
    "warmup_epochs": 0.5, "gradient_clip_val": 5.0,
}  # fmt: skip
RELATIONS_RECIPE = {
    "epochs": 20, "batch_size": 32, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine",
    "warmup_epochs": 0.5, "gradient_clip_val": 5.0,
}  # fmt: skip


class PictureQuestionAnswerer(QuestionAnswerer):
    """An image network, an LSTM over the words of a question, and what a subclass makes of both.

    Args:
        encoder: an image network of the zoo, as in resnet20.
        encoder_options: its options, as in {"width": 32}; for another network than the default, {} takes that one's own.
        encoder_weights: initial weights: pretrained, or the name or path of a run; empty is random initialization.
        freeze_encoder: leave it as it is, and compute its features of each picture only once.
        hidden_size: width of the layers, and numbers in the vector of a question.
        embed_dim: numbers in the vector of a word.
        dropout: share of the units in front of the head that are silenced in training.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str,
        encoder_options: dict[str, Any],
        encoder_weights: str,
        freeze_encoder: bool,
        hidden_size: int,
        embed_dim: int,
        dropout: float,
    ) -> None:
        super().__init__(spec, recipe)
        self.encoder = ImageEncoder(encoder, spec.image, recipe, encoder_options, encoder_weights, freeze_encoder)
        self.question = Question(len(spec.vocabulary), embed_dim, hidden_size)
        self.dropout = make_dropout(dropout)

    @abstractmethod
    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        """A score for each answer, [N, Q, answers].

        Args:
            features: of each picture, [N, features, rows, columns].
            questions: vectors of questions, [N, Q, hidden].
        """

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        return self.answer(self.encoder(images), self.question(questions))

    def load_pretrained(self, open_run: Callable[[str], Task]) -> None:
        self.encoder.load_pretrained(open_run)

    def prepare(self, data: Any) -> None:
        self.encoder.prepare(data)


class Question(nn.Module):
    """Sentences as vectors, whose numbers are normalized over the questions of a batch.

    Most words are the same in many questions; without their share, the word that tells them apart decides what is looked for.
    That makes the difference between learning in minutes and not at all.
    """

    def __init__(self, vocabulary: int, embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.sentence = SentenceEncoder(vocabulary, embed_dim, hidden_size)
        self.norm = norm_1d("batch", hidden_size)

    def forward(self, words: Tensor) -> Tensor:
        """int64 [N, Q, L], filled up with ``PAD``, to [N, Q, hidden]; where there are fewer, the first is repeated."""
        is_question = (words != PAD).any(-1, keepdim=True)
        sentences = self.sentence(torch.where(is_question, words, words[:, :1]))  # else rows of nothing shift the statistics
        return self.norm(sentences.flatten(0, 1)).view(sentences.shape)


@register_model("vqa-lstm", task="question-answering", tags=["cnn", "recurrent"], data="shapes-questions", tiny=TINY,
                recipe=RECIPE, paper="1505.00468")  # fmt: skip
class LSTMQuestionAnswerer(PictureQuestionAnswerer):
    """Picture and question each as one vector, multiplied number by number, and an MLP that picks an answer.

    Antol et al. 2015 squash both by tanh before they are multiplied; without, it learns in fewer steps.

    Args:
        pool: how the feature map becomes a vector: flatten, or avg (global average pooling), for large maps.
        fusion: product, the vectors are multiplied (Antol et al. 2015); or mlp, a layer looks at both side by side.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = SMALL_MAP,  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        hidden_size: int = 128,
        embed_dim: int = 32,
        dropout: float = 0.0,
        pool: Literal["flatten", "avg"] = "flatten",
        fusion: Literal["product", "mlp"] = "product",
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, encoder_weights, freeze_encoder, hidden_size, embed_dim, dropout)
        rows, columns = self.encoder.grid
        self.pool = nn.Flatten() if pool == "flatten" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        seen = self.encoder.features * (rows * columns if pool == "flatten" else 1)
        self.picture = nn.Linear(seen, hidden_size)
        self.asked = nn.Linear(hidden_size, hidden_size) if fusion == "product" else nn.Identity()
        self.fusion = fusion
        joined = hidden_size if fusion == "product" else 2 * hidden_size
        self.hidden = nn.Sequential(nn.Linear(joined, 2 * hidden_size), nn.ReLU(), self.dropout)
        self.head = nn.Linear(2 * hidden_size, len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        picture, question = self.picture(self.pool(features))[:, None], self.asked(questions)
        if self.fusion == "product":
            both = picture * question
        else:
            both = torch.cat([picture.expand(-1, question.shape[1], -1), question], -1)
        return self.head(self.hidden(both))

    def stages(self) -> dict[str, nn.Module]:
        joined = nn.ModuleList([self.picture, self.asked])
        return {"encoder": self.encoder, "question": self.question, "join": joined, "hidden": self.hidden, "head": self.head}


@register_model("vqa-attention", task="question-answering", tags=["cnn", "recurrent", "attention"], data="shapes-questions",
                tiny=TINY, recipe=RECIPE, paper="1511.02274")  # fmt: skip
class StackedAttention(PictureQuestionAnswerer):
    """Looks at the picture again and again: each look weighs the cells of the map by what is asked and was seen before.

    Args:
        num_layers: layers of attention.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = SMALL_MAP,  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        hidden_size: int = 128,
        embed_dim: int = 32,
        dropout: float = 0.0,
        num_layers: int = 2,
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, encoder_weights, freeze_encoder, hidden_size, embed_dim, dropout)
        if num_layers < 1:
            raise UserError(f"model.num_layers={num_layers}: must be at least 1")
        self.cells = nn.Sequential(nn.Linear(self.encoder.features + PLACE, hidden_size), nn.Tanh())
        self.looks = nn.ModuleList(Look(hidden_size) for _ in range(num_layers))
        self.head = nn.Linear(hidden_size, len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        cells, query = self.cells(with_places(features)), questions
        for look in self.looks:
            query, _ = look(cells, query)
        return self.head(self.dropout(query))

    def stages(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder, "question": self.question, "cells": self.cells, "looks": self.looks, "head": self.head,
        }  # fmt: skip


class Look(nn.Module):
    """One layer of stacked attention (Yang et al. 2016, equations 15 to 18)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.cells = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)  # a bias would not change the weights

    def forward(self, cells: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """The refined query, [N, Q, hidden], and the weights of the cells, [N, Q, K].

        Args:
            cells: [N, K, hidden].
            query: [N, Q, hidden].
        """
        scores = self.score(torch.tanh(self.cells(cells)[:, None] + self.query(query)[:, :, None]))[..., 0]
        weights = scores.softmax(-1)
        return query + weights @ cells, weights


@register_model("vqa-relation", task="question-answering", tags=["cnn", "recurrent", "relational"], data="sort-of-clevr",
                tiny=TINY_RELATIONS, recipe=RELATIONS_RECIPE, paper="1706.01427")  # fmt: skip
class RelationNetwork(PictureQuestionAnswerer):
    """Looks at all pairs of cells of the picture in the light of the question, and sums up what it finds.

    Args:
        hidden_size: numbers in the vector of a question.
        film_dim: numbers that are made of each cell in the light of the question.
        relation_dims: widths of the layers of the network g that looks at a pair.
        answer_dims: widths of the hidden layers of the network f that answers from the sum.
        norm: of the sum, most of which is the same for all pictures; none as in the paper.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = SMALL_MAP,  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        embed_dim: int = 32,
        dropout: float = 0.0,
        hidden_size: int = 64,
        film_dim: int = 256,
        relation_dims: list[int] = [64, 64],  # noqa: B006
        answer_dims: list[int] = [128, 128],  # noqa: B006
        norm: Norm = "batch",
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, encoder_weights, freeze_encoder, hidden_size, embed_dim, dropout)
        for option, widths in {"relation_dims": relation_dims, "answer_dims": answer_dims}.items():
            if min(widths, default=0) < 1:
                raise UserError(f"model.{option}={widths}: give the width of at least one layer, as in [64,64]")
        if film_dim < 1:
            raise UserError(f"model.film_dim={film_dim}: must be at least 1")
        if math.prod(self.encoder.grid) < 2:
            raise UserError(f"{encoder} leaves one place of images of {spec.image.height}x{spec.image.width}: there are no pairs")
        self.relations = Relations(self.encoder.features + PLACE, hidden_size, film_dim, relation_dims)
        self.norm = norm_1d(norm, relation_dims[-1])
        widths = [relation_dims[-1], *answer_dims]
        layers = (nn.Sequential(nn.Linear(*sizes), nn.ReLU(inplace=True)) for sizes in zip(widths[:-1], widths[1:], strict=True))
        self.hidden = nn.Sequential(*layers, self.dropout)
        self.head = nn.Linear(answer_dims[-1], len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        found = self.relations(with_places(features), questions)
        return self.head(self.hidden(self.norm(found.flatten(0, 1)).view(found.shape)))

    def stages(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder, "question": self.question, "relations": self.relations, "norm": self.norm,
            "hidden": self.hidden, "head": self.head,
        }  # fmt: skip


class Relations(nn.Module):
    """The sum of g(a, b, question) over all pairs of objects (Santoro et al. 2017, equation 1).

    The paper's first layer adds up what it is given. Here the numbers of each object are first multiplied with numbers made of
    the question (Perez et al. 2017), which picks the object that is asked for, and products of two objects, in both orders, are
    added to their sum, as a distance takes them: a sum alone finds either very late. Each pair is looked at once, and what looks
    at one object alone is computed for each object and question, not for each pair.
    """

    def __init__(self, features: int, question: int, film: int, widths: list[int]) -> None:
        super().__init__()
        self.object = nn.Linear(features, film)
        self.weigh = nn.Linear(question, film)
        self.parts = nn.Linear(film, 4 * widths[0])
        self.rest = nn.ModuleList(nn.Linear(before, after) for before, after in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, objects: Tensor, questions: Tensor) -> Tensor:
        """[N, Q, the last width], from objects [N, K, features] and questions [N, Q, question]."""
        count = objects.shape[1]
        asked_for = F.relu(self.object(objects)[:, None] * self.weigh(questions)[:, :, None])  # [N, Q, K, film]
        first, second = torch.triu_indices(count, count, 1, device=objects.device)
        one, other, left, right = self.parts(asked_for).chunk(4, 3)
        found = one.index_select(2, first).add_(other.index_select(2, second))
        for a, b in ((first, second), (second, first)):
            found = torch.addcmul(found, left.index_select(2, a), right.index_select(2, b))
        found = F.relu(found, inplace=True)
        pictures, asked, looked_at, _ = found.shape
        found = found.flatten(0, 2)  # what a layer makes of more dimensions is a view, and in place in a view means a copy
        for layer in self.rest:
            found = F.relu(layer(found), inplace=True)
        return found.view(pictures, asked, looked_at, -1).sum(2, dtype=torch.promote_types(found.dtype, torch.float32))
