"""Image captioning: a convolutional encoder, and an LSTM or a transformer as decoder."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import KeyValueCache
from zoo.layers.cross_attention import DecoderBlock
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import EncodesImages, ImageEncoder
from zoo.layers.spatial_attention import COORDINATES, SpatialAttention
from zoo.registry.entry import register_model
from zoo.spec import PAD, CaptionSpec
from zoo.tasks.captioning import Captioner, State

INITIAL_STD = 0.02  # of position and transformer embeddings (Radford et al. 2018, section 4.1)
TINY_ENCODER = {"channels": [4, 8, 8], "norm": "batch"}
RECIPE = {
    "epochs": 10, "batch_size": 64, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01, "schedule": "one-cycle",
    "gradient_clip_val": 1.0,
}  # fmt: skip


class EncoderDecoderCaptioner(EncodesImages, Captioner):
    """Base of the captioners: an image network of the zoo as encoder."""

    channels_last = True


@register_model(
    "captioner",
    task="captioning",
    encoder_options={"channels": [16, 32, 64, 128], "norm": "batch"},
    tags=["cnn", "recurrent"],
    data="shapes-captions",
    data_options={"max_objects": 2},
    tiny={"encoder_options": TINY_ENCODER, "feature_dim": 8, "hidden_size": 8, "embed_dim": 8, "num_queries": 3},
    recipe={**RECIPE, "epochs": 14},
    paper="1411.4555",
)
class CNNLSTM(EncoderDecoderCaptioner):
    """Show and Tell (Vinyals et al. 2015): the image embedding is the first input of an LSTM decoder.

    Attention pooling makes the embedding: ``num_queries`` learned queries, each a weighted mean over the feature map.

    Args:
        feature_dim: dimensions of each location of the feature map.
        hidden_size: dimensions of the LSTM's hidden state.
        embed_dim: dimensions of word and image embeddings.
        num_queries: learned queries of the attention pooling.
        dropout: dropout probability of the LSTM's inputs and outputs.
    """

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe | None = None,
        feature_dim: int = 96,
        hidden_size: int = 256,
        embed_dim: int = 192,
        num_queries: int = 8,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        require_positive(hidden_size=hidden_size, embed_dim=embed_dim, num_queries=num_queries)
        self.locations = LocationFeatures(self.encoder, feature_dim)
        self.features = nn.Sequential(nn.Linear(feature_dim, 2 * hidden_size), nn.ReLU())
        self.queries = nn.Linear(2 * hidden_size, num_queries, bias=False)
        self.content = nn.Linear(2 * hidden_size * num_queries, 2 * hidden_size)
        # coordinates have a layer of their own: among so many features they would be lost
        self.position = nn.Linear(COORDINATES * num_queries, 2 * hidden_size, bias=False)
        # the norm brings the image embedding to the scale of word embeddings
        self.image_embedding = nn.Sequential(nn.ReLU(), nn.Linear(2 * hidden_size, embed_dim), nn.LayerNorm(embed_dim))
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim, padding_idx=PAD)
        self.dropout = make_dropout(dropout)
        self.recurrent = nn.LSTM(embed_dim, hidden_size, batch_first=True)
        with torch.no_grad():  # a high initial forget gate, for long memory (Jozefowicz et al. 2015)
            self.recurrent.bias_ih_l0[hidden_size : 2 * hidden_size] = 2
        self.head = nn.Linear(hidden_size, len(spec.vocabulary))

    def encode(self, images: Tensor) -> Tensor:
        """Image embeddings, [N, embed_dim]."""
        locations = self.locations(self.encoder(images))
        features = self.features(locations)
        weights = self.queries(features).softmax(1).transpose(1, 2)
        content, position = weights @ features, weights @ locations[..., -COORDINATES:]
        return self.image_embedding(self.content(content.flatten(1)) + self.position(position.flatten(1)))

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        encoded = encoded.repeat_interleave(captions.shape[1], 0)
        inputs = torch.cat([encoded[:, None], self._embed(captions.flatten(0, 1), encoded)], 1)
        outputs, _ = self.recurrent(self.dropout(inputs))
        return self.head(self.dropout(outputs[:, 1:])).unflatten(0, captions.shape[:2])

    def initial_state(self, encoded: Tensor) -> State:
        _, state = self.recurrent(encoded[:, None])
        return *(part.transpose(0, 1) for part in state), encoded

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        *state, encoded = state
        state = tuple(part.transpose(0, 1).contiguous() for part in state)
        outputs, state = self.recurrent(self._embed(tokens, encoded), state)
        return self.head(outputs[:, -1]), (*(part.transpose(0, 1) for part in state), encoded)

    def _embed(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """Inputs of the LSTM, [N, T, embed_dim]: each word with the image; in the paper the image is fed once."""
        return self.embedding(tokens) + encoded[:, None]

    def stages(self) -> dict[str, nn.Module]:
        image_embedding = nn.ModuleList([self.content, self.position, self.image_embedding])
        return {
            "encoder": self.encoder, "locations": self.locations, "features": self.features, "queries": self.queries,
            "image_embedding": image_embedding, "embedding": self.embedding, "recurrent": self.recurrent, "head": self.head,
        }  # fmt: skip


@register_model(
    "captioner-attention",
    task="captioning",
    tags=["cnn", "recurrent", "attention"],
    data="shapes-captions",
    tiny={"encoder_options": TINY_ENCODER, "hidden_size": 12, "embed_dim": 8, "feature_dim": 10},
    recipe=RECIPE,
    paper="1502.03044",
)
class CNNLSTMAttention(EncoderDecoderCaptioner):
    """Show, Attend and Tell (Xu et al. 2015): an LSTM decoder attends to the feature map before each word.

    Soft attention with the gate beta (section 4.2.1); each location also has a learned position embedding.

    Args:
        feature_dim: dimensions of each location of the feature map.
        hidden_size: dimensions of the LSTM's hidden state.
        embed_dim: dimensions of a word embedding.
        dropout: dropout probability of features, word embeddings and the head's input.
        coverage_weight: weight of the doubly stochastic regularization, for which each location gets a total attention of one
            (Xu's equation 14, with the mean over locations in place of the sum).
    """

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe | None = None,
        feature_dim: int = 96,
        hidden_size: int = 128,
        embed_dim: int = 64,
        dropout: float = 0.0,
        coverage_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        require_positive(hidden_size=hidden_size, embed_dim=embed_dim)
        if coverage_weight < 0:
            raise UserError(f"model.coverage_weight={coverage_weight}: must be at least 0")
        self.coverage_weight = coverage_weight
        self.locations = LocationFeatures(self.encoder, feature_dim)
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim, padding_idx=PAD)
        self.dropout = make_dropout(dropout)
        self.attention = SpatialAttention(hidden_size, feature_dim, feature_dim)
        self.gate = nn.Linear(hidden_size, 1)
        self.initial = nn.Linear(feature_dim, 2 * hidden_size)
        self.recurrent = nn.LSTMCell(embed_dim + feature_dim, hidden_size)
        self.output = nn.Linear(hidden_size + feature_dim + embed_dim, embed_dim)  # Xu's equation 7
        self.head = nn.Linear(embed_dim, len(spec.vocabulary))

    def encode(self, images: Tensor) -> Tensor:
        """Location features, [N, locations, feature_dim]."""
        return self.dropout(self.locations(self.encoder(images)))

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        return self.decode_with_attention(encoded, captions)[0]

    def decode_with_attention(self, encoded: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next word, [N, R, T, vocabulary], and attention weights, [N, R, T, locations]."""
        words = self.dropout(self.embedding(captions))
        keys, state = self.attention.keys(encoded), self._initial_hidden(encoded, captions.shape[1])
        outputs, attention = [], []
        for word in words.unbind(2):
            output, weights, state = self._decode_word(word, state, keys, encoded)
            outputs.append(output)
            attention.append(weights)
        return self.head(self.dropout(torch.stack(outputs, 2))), torch.stack(attention, 2)

    def _initial_hidden(self, encoded: Tensor, captions: int) -> tuple[Tensor, Tensor]:
        """h and c from the mean over locations, [N * captions, hidden_size] each."""
        h, c = self.initial(encoded.mean(1)).chunk(2, 1)
        return h.tanh().repeat_interleave(captions, 0), c.repeat_interleave(captions, 0)

    def _decode_word(
        self, word: Tensor, state: tuple[Tensor, Tensor], keys: Tensor, encoded: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The head's input, [N, R, embed_dim], attention weights, [N, R, locations], and h and c, [N * R, hidden_size].

        Args:
            word: embedding of the previous word of R captions of each image, [N, R, embed_dim].
            state: previous h and c.
        """
        hidden = state[0].view(*word.shape[:2], -1)
        context, weights = self.attention(hidden, keys, encoded)
        context = context * self.gate(hidden).sigmoid()
        state = self.recurrent(torch.cat([word, context], 2).flatten(0, 1), state)
        return self.output(torch.cat([state[0].view_as(hidden), context, word], 2)).tanh(), weights, state

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if not self.coverage_weight:
            return super().training_step(batch, batch_idx)
        captions = batch["labels"]
        logits, attention = self.decode_with_attention(self.encode(batch["images"]), captions[:, :, :-1])
        targets = captions[:, :, 1:]
        is_word = targets != PAD
        is_caption = is_word.any(2)
        total = (attention * is_word[..., None]).sum(2)  # over the words of a caption, [N, R, locations]
        uneven = (((1 - total) ** 2).mean(2) * is_caption).sum() / is_caption.sum()
        loss = self.objective(self.loss(logits, targets), len(captions), uneven=uneven.detach() * len(captions))
        return loss + self.coverage_weight * uneven

    def initial_state(self, encoded: Tensor) -> State:
        return (*self._initial_hidden(encoded, 1), self.attention.keys(encoded), encoded)

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        *state, keys, encoded = state
        for word in self.embedding(tokens).split(1, 1):
            output, _, state = self._decode_word(word, state, keys, encoded)
        return self.head(output[:, 0]), (*state, keys, encoded)

    def stages(self) -> dict[str, nn.Module]:
        attention = nn.ModuleList([self.attention, self.gate, self.initial])
        return {
            "encoder": self.encoder, "locations": self.locations, "embedding": self.embedding, "attention": attention,
            "recurrent": self.recurrent, "output": self.output, "head": self.head,
        }  # fmt: skip


@register_model(
    "captioner-transformer",
    task="captioning",
    tags=["cnn", "attention"],
    data="shapes-captions",
    tiny={"encoder_options": TINY_ENCODER, "embed_dim": 8, "num_layers": 2, "num_heads": 2},
    recipe={**RECIPE, "optimizer_args": {"betas": [0.9, 0.98]}, "lr": 1e-3},
    paper="1706.03762",
)
class CNNTransformer(EncoderDecoderCaptioner):
    """Transformer captioner (Vaswani et al. 2017): causal self-attention over words, cross-attention to the feature map.

    Args:
        num_layers: decoder blocks.
        num_heads: attention heads of each block; must divide embed_dim.
        embed_dim: dimensions of a word embedding and of each location of the feature map.
        dropout: dropout probability.
    """

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe | None = None,
        num_layers: int = 2,
        num_heads: int = 4,
        embed_dim: int = 128,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        require_positive(num_layers=num_layers)
        self.locations = LocationFeatures(self.encoder, embed_dim)
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim)
        self.positions = nn.Embedding(spec.length, embed_dim)
        self.dropout = make_dropout(dropout)
        self.blocks = nn.ModuleList(DecoderBlock(embed_dim, num_heads, 4 * embed_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, len(spec.vocabulary))
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=INITIAL_STD)

    def encode(self, images: Tensor) -> Tensor:
        """Location features, [N, locations, embed_dim]."""
        return self.dropout(self.locations(self.encoder(images)))

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        features = self._embed(captions.flatten(0, 1), start=0)
        for block in self.blocks:
            features, _ = block(features, block.cross_attention.project(encoded))
        return self.head(self.norm(features)).unflatten(0, captions.shape[:2])

    def decode_with_attention(self, encoded: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next word, [N, R, T, vocabulary], and attention weights, [N, R, T, locations].

        The weights are the mean over all heads and layers.
        """
        weights: list[Tensor] = []

        def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            weights.append(layer.weights(*inputs))

        with ExitStack() as hooks:
            for block in self.blocks:
                hooks.enter_context(block.cross_attention.register_forward_pre_hook(record))
            logits = self.decode(encoded, captions)
        return logits, torch.stack(weights).mean((0, 2)).unflatten(1, captions.shape[1:])

    def initial_state(self, encoded: Tensor) -> State:
        return tuple((block.cross_attention.project(encoded), None) for block in self.blocks)

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        past = state[0][1]
        features = self._embed(tokens, start=0 if past is None else past[0].shape[2])
        new_state = []
        for block, (memory, past) in zip(self.blocks, state, strict=True):
            features, past = block(features, KeyValueCache(*memory), past and KeyValueCache(*past))
            new_state.append((memory, past))
        return self.head(self.norm(features[:, -1])), tuple(new_state)

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        """Word and position embeddings, positions from ``start`` on, [N, T, embed_dim]."""
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        return self.dropout(self.embedding(tokens) + self.positions(positions))

    def stages(self) -> dict[str, nn.Module]:
        blocks = {f"block{number}": block for number, block in enumerate(self.blocks, 1)}
        embedding = nn.ModuleList([self.embedding, self.positions])
        return {
            "encoder": self.encoder, "locations": self.locations, "embedding": embedding, **blocks, "norm": self.norm,
            "head": self.head,
        }  # fmt: skip


class LocationFeatures(nn.Module):
    """Feature map [N, features, rows, columns] to a sequence of its locations, [N, locations, dim], row by row.

    A projection with a learned position embedding; the last two features are the coordinates x and y in (-1, 1), so that
    attention gathers positions too.

    Args:
        encoder: encoder that gives the map.
        dim: dimensions of each location, coordinates included.

    Raises:
        UserError: fewer than 4 dimensions.
    """

    def __init__(self, encoder: ImageEncoder, dim: int) -> None:
        super().__init__()
        if dim < 4:
            raise UserError(f"the feature map needs at least 4 dimensions a location (feature_dim, embed_dim), not {dim}")
        rows, columns = encoder.grid
        self.project = nn.Linear(encoder.features, dim - COORDINATES)
        self.positions = nn.Parameter(torch.randn(rows * columns, dim - COORDINATES) * INITIAL_STD)
        y, x = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in (rows, columns)), indexing="ij")
        self.register_buffer("coordinates", torch.stack([x, y], 2).view(-1, 2), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        locations = F.relu(self.project(features.flatten(2).transpose(1, 2)) + self.positions)
        return torch.cat([locations, self.coordinates.expand(len(locations), -1, -1)], 2)
