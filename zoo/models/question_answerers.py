"""Visual question answering: CNN + LSTM, stacked attention network and relation network."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import EncodesImages
from zoo.layers.norms import norm_1d
from zoo.layers.sentence_encoder import SentenceEncoder
from zoo.layers.spatial_attention import COORDINATES, flatten_with_coordinates
from zoo.registry.annotations import Norm
from zoo.registry.entry import register_model
from zoo.spec import PAD, QuestionSpec
from zoo.tasks.question_answering import QuestionAnswerer

SMALL_CNN = {"channels": [24, 24, 24, 24], "norm": "batch", "downsampling": "stride"}  # of Santoro et al. 2017, section 4
TINY_CNN = {"channels": [4, 4, 8, 8], "norm": "batch", "downsampling": "stride"}
# small batches, as each image has many questions
RECIPE = {
    "epochs": 12, "batch_size": 8, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine",
    "warmup_epochs": 0.5, "gradient_clip_val": 5.0,
}  # fmt: skip
TINY = {"encoder_options": TINY_CNN, "hidden_size": 12, "embed_dim": 8}
SHAPES = {"data": "shapes-questions", "tiny": TINY, "recipe": RECIPE}


class EncoderQuestionAnswerer(EncodesImages, QuestionAnswerer):
    """Base of the VQA networks: an image encoder and an LSTM question encoder.

    Args:
        hidden_size: dimensions of the question encoding and of the hidden layers.
        embed_dim: dimensions of a word embedding.
        dropout: dropout probability before the head.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe | None = None,
        encoder_options: dict[str, Any] = SMALL_CNN,  # noqa: B006
        hidden_size: int = 128,
        embed_dim: int = 32,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, encoder_options=encoder_options, **options)
        self.hidden_size = hidden_size
        self.question = QuestionEncoder(len(spec.vocabulary), embed_dim, hidden_size)
        self.dropout = make_dropout(dropout)

    @abstractmethod
    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        """Logits of the answers, [N, Q, answers].

        Args:
            features: feature maps, [N, features, rows, columns].
            questions: question encodings, [N, Q, hidden_size].
        """

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        return self.answer(self.encoder(images), self.question(questions))


class QuestionEncoder(nn.Module):
    """Question encoder with batch norm over the questions of a batch.

    Most words are common to many questions. The norm removes their share, so that the word that differs decides where to attend:
    the difference between learning in minutes and not at all.
    """

    def __init__(self, vocabulary: int, embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.sentence = SentenceEncoder(vocabulary, embed_dim, hidden_size)
        self.norm = norm_1d("batch", hidden_size)

    def forward(self, words: Tensor) -> Tensor:
        """int64 [N, Q, L], padded with ``PAD``, to [N, Q, hidden_size]; the first question fills empty rows."""
        is_question = (words != PAD).any(-1, keepdim=True)
        sentences = self.sentence(torch.where(is_question, words, words[:, :1]))  # padding rows would shift the statistics
        return self.norm(sentences.flatten(0, 1)).view(sentences.shape)


@register_model("vqa-lstm", task="question-answering", tags=["cnn", "recurrent"], paper="1505.00468", **SHAPES)
class LSTMQuestionAnswerer(EncoderQuestionAnswerer):
    """CNN + LSTM for VQA (Antol et al. 2015): image and question encodings are multiplied, and an MLP classifies.

    Without the paper's tanh on both encodings, which learns in fewer steps.

    Args:
        pool: how the feature map becomes a vector: flatten, or avg (global average pooling), for large maps.
        fusion: product, elementwise (Antol et al. 2015); or mlp, a layer on the concatenation.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe | None = None,
        pool: Literal["flatten", "avg"] = "flatten",
        fusion: Literal["product", "mlp"] = "product",
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        hidden_size = self.hidden_size
        rows, columns = self.encoder.grid
        self.pool = nn.Flatten() if pool == "flatten" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        features = self.encoder.features * (rows * columns if pool == "flatten" else 1)
        self.image = nn.Linear(features, hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size) if fusion == "product" else nn.Identity()
        self.fusion = fusion
        fused = hidden_size if fusion == "product" else 2 * hidden_size
        self.hidden = nn.Sequential(nn.Linear(fused, 2 * hidden_size), nn.ReLU(), self.dropout)
        self.head = nn.Linear(2 * hidden_size, len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        image, question = self.image(self.pool(features))[:, None], self.query(questions)
        if self.fusion == "product":
            fused = image * question
        else:
            fused = torch.cat([image.expand(-1, question.shape[1], -1), question], -1)
        return self.head(self.hidden(fused))

    def stages(self) -> dict[str, nn.Module]:
        fusion = nn.ModuleList([self.image, self.query])
        return {"encoder": self.encoder, "question": self.question, "fusion": fusion, "hidden": self.hidden, "head": self.head}


@register_model("vqa-attention", task="question-answering", tags=["cnn", "recurrent", "attention"], paper="1511.02274", **SHAPES)
class StackedAttention(EncoderQuestionAnswerer):
    """Stacked attention network (Yang et al. 2016): the question attends to the feature map layer by layer.

    Args:
        num_layers: number of attention layers.
    """

    def __init__(self, spec: QuestionSpec, recipe: Recipe | None = None, num_layers: int = 2, **options: Any) -> None:
        super().__init__(spec, recipe, **options)
        hidden_size = self.hidden_size
        require_positive(num_layers=num_layers)
        self.cells = nn.Sequential(nn.Linear(self.encoder.features + COORDINATES, hidden_size), nn.Tanh())
        self.layers = nn.ModuleList(AttentionLayer(hidden_size) for _ in range(num_layers))
        self.head = nn.Linear(hidden_size, len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        cells, query = self.cells(flatten_with_coordinates(features)), questions
        for layer in self.layers:
            query, _ = layer(cells, query)
        return self.head(self.dropout(query))

    def stages(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder, "question": self.question, "cells": self.cells, "layers": self.layers, "head": self.head,
        }  # fmt: skip


class AttentionLayer(nn.Module):
    """Layer of a stacked attention network (Yang et al. 2016, equations 15 to 18)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.cells = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)  # a bias would not change the weights

    def forward(self, cells: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Refined query, [N, Q, hidden], and attention weights, [N, Q, K].

        Args:
            cells: [N, K, hidden].
            query: [N, Q, hidden].
        """
        scores = self.score(torch.tanh(self.cells(cells)[:, None] + self.query(query)[:, :, None]))[..., 0]
        weights = scores.softmax(-1)
        return query + weights @ cells, weights


@register_model(
    "vqa-relation",
    task="question-answering",
    hidden_size=64,
    tags=["cnn", "recurrent", "relational"],
    data="sort-of-clevr",
    tiny={"encoder_options": TINY_CNN, "hidden_size": 8, "embed_dim": 8, "film_dim": 12, "relation_dims": [12, 8],
          "answer_dims": [12, 12]},
    recipe={**RECIPE, "epochs": 20, "batch_size": 32},
    paper="1706.01427",
)  # fmt: skip
class RelationNetwork(EncoderQuestionAnswerer):
    """Relation network (Santoro et al. 2017): an MLP on all pairs of cells of the feature map and the question.

    Args:
        film_dim: dimensions of each cell after modulation by the question.
        relation_dims: widths of the layers of g, applied to each pair.
        answer_dims: widths of the hidden layers of f, applied to the sum over pairs.
        norm: normalization of the sum, most of which is common to all images; none in the paper.
    """

    def __init__(
        self,
        spec: QuestionSpec,
        recipe: Recipe | None = None,
        film_dim: int = 256,
        relation_dims: list[int] = [64, 64],  # noqa: B006
        answer_dims: list[int] = [128, 128],  # noqa: B006
        norm: Norm = "batch",
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        for option, widths in {"relation_dims": relation_dims, "answer_dims": answer_dims}.items():
            if min(widths, default=0) < 1:
                raise UserError(f"model.{option}={widths}: give the width of at least one layer, as in [64,64]")
        require_positive(film_dim=film_dim)
        if math.prod(self.encoder.grid) < 2:
            raise UserError(f"model.encoder={self.encoder.name}: its feature map is a single cell here, so there are no pairs")
        self.relations = Relations(self.encoder.features + COORDINATES, self.hidden_size, film_dim, relation_dims)
        self.norm = norm_1d(norm, relation_dims[-1])
        widths = [relation_dims[-1], *answer_dims]
        layers = (nn.Sequential(nn.Linear(*sizes), nn.ReLU(inplace=True)) for sizes in zip(widths[:-1], widths[1:], strict=True))
        self.hidden = nn.Sequential(*layers, self.dropout)
        self.head = nn.Linear(answer_dims[-1], len(spec.answers))

    def answer(self, features: Tensor, questions: Tensor) -> Tensor:
        relations = self.relations(flatten_with_coordinates(features), questions)
        return self.head(self.hidden(self.norm(relations.flatten(0, 1)).view(relations.shape)))

    def stages(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder, "question": self.question, "relations": self.relations, "norm": self.norm,
            "hidden": self.hidden, "head": self.head,
        }  # fmt: skip


class Relations(nn.Module):
    """Sum of g(a, b, question) over all pairs of objects (Santoro et al. 2017, equation 1).

    In the paper g's first layer sums its inputs. Here the question first modulates each object by a product (FiLM, Perez et al.
    2017), which selects the object in question, and products of both objects, in both orders, are added, as distances need them:
    with sums alone either is learned very late. Each pair is computed once, and its single-object terms once for each object.
    """

    def __init__(self, features: int, question: int, film: int, widths: list[int]) -> None:
        super().__init__()
        self.object = nn.Linear(features, film)
        self.weigh = nn.Linear(question, film)
        self.parts = nn.Linear(film, 4 * widths[0])
        self.rest = nn.ModuleList(nn.Linear(before, after) for before, after in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, objects: Tensor, questions: Tensor) -> Tensor:
        """[N, Q, widths[-1]], from objects [N, K, features] and questions [N, Q, question]."""
        count = objects.shape[1]
        modulated = F.relu(self.object(objects)[:, None] * self.weigh(questions)[:, :, None])  # [N, Q, K, film]
        first, second = torch.triu_indices(count, count, 1, device=objects.device)
        one, other, left, right = self.parts(modulated).chunk(4, 3)
        pairs = one.index_select(2, first).add_(other.index_select(2, second))
        for a, b in ((first, second), (second, first)):
            pairs = torch.addcmul(pairs, left.index_select(2, a), right.index_select(2, b))
        shape = pairs.shape[:3]
        pairs = F.relu(pairs, inplace=True).flatten(0, 2)  # 2-d: in-place operations on views would copy
        for layer in self.rest:
            pairs = F.relu(layer(pairs), inplace=True)
        return pairs.view(*shape, -1).sum(2, dtype=torch.promote_types(pairs.dtype, torch.float32))
