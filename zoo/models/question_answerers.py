"""Networks that answer questions about pictures: LSTM with a picture, stacked attention, and the relation network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import ImageEncoder
from zoo.layers.names import Norm
from zoo.layers.norms import norm_1d
from zoo.layers.sentence_encoder import SentenceEncoder
from zoo.recipe import Recipe
from zoo.registry import register_model
from zoo.spec import QuestionSpec
from zoo.tasks.question_answering import QuestionAnswerer
from zoo.tasks.task import Task

# the convolutions of Santoro et al. 2017, section 4: a small map, since what follows looks at all its cells
CONVNET = {"channels": [24, 24, 24, 24], "norm": "batch", "downsampling": "stride"}
TINY = {"encoder_options": {"channels": [4, 4, 8, 8]}, "hidden": 12, "embedding": 8}
RECIPE = {
    "epochs": 20, "batch_size": 32, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine", "warmup": 1.0,
    "clip": 1.0,
}  # fmt: skip


class PictureQuestionAnswerer(QuestionAnswerer):
    """An image network, an LSTM over the words of a question, and what a subclass makes of both.

    Args:
        encoder: an image network of the zoo, as in resnet20.
        encoder_options: its options; a convnet has four convolutions of stride 2 with 24 channels, unless they say otherwise.
        weights: that it begins with: none, imagenet (those it was published with), or a run that trained it.
        frozen: the image network is not trained; its features are computed once, if nothing augments the pictures.
        hidden: width of the layers, and numbers in the vector of a question.
        embedding: numbers in the vector of a word.
        dropout: share of the units in front of the head that are silenced in training.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str,
        encoder_options: dict[str, Any],
        weights: str,
        frozen: bool,
        hidden: int,
        embedding: int,
        dropout: float,
    ) -> None:
        super().__init__(spec, recipe)
        if frozen and not weights:
            raise UserError("model.frozen=true: an image network that has learned nothing cannot be frozen: give model.weights")
        options = {**CONVNET, **encoder_options} if encoder == "convnet" else encoder_options
        self.weights, self.sees_features = weights, False
        self.encoder = ImageEncoder(encoder, spec.image, recipe, options, frozen)
        self.question = SentenceEncoder(len(spec.vocabulary), embedding, hidden)
        self.dropout = make_dropout(dropout)

    @abstractmethod
    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        """A score for each answer, [N, Q, answers].

        Args:
            features: of each picture, [N, features, rows, columns].
            questions: vectors of questions, [N, Q, hidden].
        """

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        features = images if self.sees_features else self.encoder(images)
        return self.answer(features, self.question(questions))

    def load_pretrained(self, open_run: Callable[[str], Task]) -> None:
        if self.weights:
            self.encoder.load_pretrained(self.weights, open_run)

    def prepare(self, data: Any) -> None:
        if self.encoder.frozen and data.augment == "none":
            data.keep_features(self.encoder.eval(), self.encoder.identity)
            self.sees_features = True


@register_model("vqa-lstm", task="question-answering", tags=["cnn", "recurrent"], data="shapes-questions", tiny=TINY,
                recipe=RECIPE, paper="1505.00468")  # fmt: skip
class LSTMQuestionAnswerer(PictureQuestionAnswerer):
    """Picture and question each as one vector, multiplied number by number, and an MLP that picks an answer.

    Args:
        places: flat, the whole map of features is weighed, so places count; or mean, of all places, as large networks give.
        join: product, the vectors are multiplied (Antol et al. 2015); or mlp, a layer looks at both side by side.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {},  # noqa: B006
        weights: str = "",
        frozen: bool = False,
        hidden: int = 128,
        embedding: int = 32,
        dropout: float = 0.0,
        places: Literal["flat", "mean"] = "flat",
        join: Literal["product", "mlp"] = "product",
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, weights, frozen, hidden, embedding, dropout)
        rows, columns = self.encoder.grid
        self.pool = nn.Flatten() if places == "flat" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        seen = self.encoder.features * (rows * columns if places == "flat" else 1)
        self.picture = nn.Sequential(nn.Linear(seen, hidden), nn.Tanh())
        self.asked = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh()) if join == "product" else nn.Identity()
        self.join = join
        self.hidden = nn.Sequential(nn.Linear(hidden if join == "product" else 2 * hidden, 2 * hidden), nn.ReLU(), self.dropout)
        self.head = nn.Linear(2 * hidden, len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        picture, question = self.picture(self.pool(features))[:, None], self.asked(questions)
        if self.join == "product":
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
        looks: layers of attention.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {},  # noqa: B006
        weights: str = "",
        frozen: bool = False,
        hidden: int = 128,
        embedding: int = 32,
        dropout: float = 0.0,
        looks: int = 2,
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, weights, frozen, hidden, embedding, dropout)
        if looks < 1:
            raise UserError(f"model.looks={looks}: must be at least 1")
        self.cells = nn.Sequential(nn.Linear(self.encoder.features + PLACE, hidden), nn.Tanh())
        self.looks = nn.ModuleList(Look(hidden) for _ in range(looks))
        self.head = nn.Linear(hidden, len(spec.answers))

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

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.cells = nn.Linear(hidden, hidden, bias=False)
        self.query = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)  # a bias would not change the weights

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
                tiny=TINY, recipe=RECIPE, paper="1706.01427")  # fmt: skip
class RelationNetwork(PictureQuestionAnswerer):
    """Looks at all pairs of cells of the picture in the light of the question, and sums up what it finds.

    Args:
        relation_layers: of the network g that looks at a pair.
        answer_layers: hidden layers of the network f that answers from the sum.
        norm: of the sum, most of which is the same for all pictures; none as in the paper.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {},  # noqa: B006
        weights: str = "",
        frozen: bool = False,
        hidden: int = 128,
        embedding: int = 32,
        dropout: float = 0.0,
        relation_layers: int = 2,
        answer_layers: int = 2,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, weights, frozen, hidden, embedding, dropout)
        if min(relation_layers, answer_layers) < 1:
            raise UserError(
                f"model.relation_layers={relation_layers}, model.answer_layers={answer_layers}: both must be at least 1"
            )
        self.relations = Relations(self.encoder.features + PLACE, hidden, hidden, relation_layers)
        self.norm = norm_1d(norm, hidden)
        layers = (nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True)) for _ in range(answer_layers))
        self.hidden = nn.Sequential(*layers, self.dropout)
        self.head = nn.Linear(hidden, len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        found = self.relations(with_places(features), questions)
        return self.head(self.hidden(self.norm(found.flatten(0, 1)).view(found.shape)))

    def stages(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder, "question": self.question, "relations": self.relations, "norm": self.norm,
            "hidden": self.hidden, "head": self.head,
        }  # fmt: skip


class Relations(nn.Module):
    """The sum of g(a, b, question) over all pairs of objects, g an MLP with ReLU (Santoro et al. 2017, equation 1).

    Each pair is looked at once, the object that comes first as ``a``; objects know their place, so nothing is lost. The first
    layer is linear in its parts, W [a, b, q] = A a + B b + C q: each is computed once for each object or question, and only
    added for each pair.
    """

    def __init__(self, features: int, question: int, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(features, width, bias=False)
        self.question = nn.Linear(question, width, bias=False)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))

    def forward(self, objects: Tensor, questions: Tensor) -> Tensor:
        """[N, Q, width], from objects [N, K, features] and questions [N, Q, question]."""
        count = objects.shape[1]
        first, second = torch.triu_indices(count, count, 1, device=objects.device)
        pairs = self.first(objects).index_select(1, first) + self.second(objects).index_select(1, second)
        found = F.relu(pairs[:, None] + self.question(questions)[:, :, None], inplace=True)
        shape = found.shape
        found = found.flatten(0, 2)  # what a layer makes of more dimensions is a view, and in place in a view means a copy
        for layer in self.rest:
            found = F.relu(layer(found), inplace=True)
        return found.view(shape).sum(2, dtype=torch.promote_types(found.dtype, torch.float32))


PLACE = 2  # numbers that say where a cell is


def with_places(features: Tensor) -> Tensor:
    """The cells of a map [N, features, rows, columns], each with its place from -1 to 1: [N, rows * columns, features + 2]."""
    n, _, rows, columns = features.shape
    down, right = (torch.linspace(-1, 1, side, dtype=features.dtype, device=features.device) for side in (rows, columns))
    places = torch.stack([down[:, None].expand(rows, columns), right.expand(rows, columns)]).expand(n, -1, -1, -1)
    return torch.cat([features, places], 1).flatten(2).transpose(1, 2)
