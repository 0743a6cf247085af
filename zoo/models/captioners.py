"""Networks that say what is in a picture: a convolutional network that sees, and an LSTM or a transformer that tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import Past
from zoo.layers.cross_attention import DecoderBlock
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.image_encoder import ImageEncoder
from zoo.layers.map_attention import MapAttention
from zoo.registry.entry import register_model
from zoo.spec import PAD, CaptionSpec
from zoo.tasks.captioning import Captioner, State
from zoo.tasks.task import Task

COORDINATES = 2  # of a place, the last two of its numbers
INITIAL_DEVIATION = 0.02  # of positions and of a transformer's embeddings (Radford et al. 2018, section 4.1)


class SeeingCaptioner(Captioner):
    """What the captioners here share: an image network of the zoo, whose feature map they tell of.

    Args:
        encoder: the image network, without its head.
        encoder_options: of it, as in {"width": 32}.
        encoder_weights: initial weights: pretrained, or the name or path of a run; empty is random initialization.
        freeze_encoder: leave it as it is, and compute its features of each picture only once.
    """

    channels_last = True

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe,
        encoder: str,
        encoder_options: dict[str, Any],
        encoder_weights: str,
        freeze_encoder: bool,
        num_beams: int,
    ) -> None:
        super().__init__(spec, recipe, num_beams)
        if num_beams < 1:
            raise UserError(f"model.num_beams={num_beams}: must be at least 1, which is greedy")
        self.encoder = ImageEncoder(encoder, spec.image, recipe, encoder_options, encoder_weights, freeze_encoder)

    def load_pretrained(self, open_run: Callable[[str], Task]) -> None:
        self.encoder.load_pretrained(open_run)

    def prepare(self, data: Any) -> None:
        self.encoder.prepare(data)


@register_model(
    "captioner",
    task="captioning",
    tags=["cnn", "recurrent"],
    data="shapes-captions",
    data_options={"max_objects": 2},
    tiny={"encoder_options": {"channels": [4, 8, 8], "norm": "batch"}, "feature_dim": 8, "hidden_size": 8, "embed_dim": 8,
          "num_queries": 3},
    recipe={
        "epochs": 14, "batch_size": 64, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01, "schedule": "one-cycle",
        "gradient_clip_val": 1.0,
    },
    paper="1411.4555",
)  # fmt: skip
class CNNLSTM(SeeingCaptioner):
    """Show and tell (Vinyals et al. 2015): the picture, as one vector, is the first input of an LSTM that writes.

    A few learned glances make the vector: each is a mean over the places of the map, weighted by what stands there.

    Args:
        encoder: the image network, without its head.
        encoder_options: of it, as in {"width": 32}.
        encoder_weights: initial weights: pretrained, or the name or path of a run; empty is random initialization.
        freeze_encoder: leave it as it is, and compute its features of each picture only once.
        feature_dim: numbers that are kept of each place of the map.
        hidden_size: units of the LSTM.
        embed_dim: numbers a word.
        num_queries: weighted means of the map that the vector is made of.
        repeat_image: add the vector to every word too, so that the LSTM need not keep all of it in mind; on photographs the paper
            found it better to show it once.
        dropout: share of units that are silenced in training, around the LSTM.
        num_beams: sentences that are kept at a time in writing a caption when testing or asked; 1 is greedy.
    """

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {"channels": [16, 32, 64, 128], "norm": "batch"},  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        feature_dim: int = 96,
        hidden_size: int = 256,
        embed_dim: int = 192,
        num_queries: int = 8,
        repeat_image: bool = True,
        dropout: float = 0.0,
        num_beams: int = 1,
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, encoder_weights, freeze_encoder, num_beams)
        require_positive(hidden_size=hidden_size, embed_dim=embed_dim, num_queries=num_queries)
        self.repeat_image = repeat_image
        self.places = MapPlaces(self.encoder, feature_dim)
        self.there = nn.Sequential(nn.Linear(feature_dim, 2 * hidden_size), nn.ReLU())
        self.queries = nn.Linear(2 * hidden_size, num_queries, bias=False)
        self.what = nn.Linear(2 * hidden_size * num_queries, 2 * hidden_size)
        # by itself, or it is lost among all that there is
        self.where = nn.Linear(COORDINATES * num_queries, 2 * hidden_size, bias=False)
        # the norm makes a picture as large as a word, or the LSTM hardly sees it
        self.summary = nn.Sequential(nn.ReLU(), nn.Linear(2 * hidden_size, embed_dim), nn.LayerNorm(embed_dim))
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim, padding_idx=PAD)
        self.dropout = make_dropout(dropout)
        self.recurrent = nn.LSTM(embed_dim, hidden_size, batch_first=True)
        with torch.no_grad():  # it tells of what it saw ten words before: at first it forgets little (Jozefowicz et al. 2015)
            self.recurrent.bias_ih_l0[hidden_size : 2 * hidden_size] = 2
        self.head = nn.Linear(hidden_size, len(spec.vocabulary))

    def encode(self, images: Tensor) -> Tensor:
        """One vector of each picture, [N, embedding]."""
        places = self.places(self.encoder(images))
        there = self.there(places)
        weights = self.queries(there).softmax(1).transpose(1, 2)
        what, where = weights @ there, weights @ places[..., -COORDINATES:]
        return self.summary(self.what(what.flatten(1)) + self.where(where.flatten(1)))

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        number = captions.shape[1]
        encoded = encoded.repeat_interleave(number, 0)
        outputs, _ = self.recurrent(self.dropout(torch.cat([encoded[:, None], self._words(captions.flatten(0, 1), encoded)], 1)))
        return self.head(self.dropout(outputs[:, 1:])).unflatten(0, (-1, number))

    def initial_state(self, encoded: Tensor) -> State:
        _, state = self.recurrent(encoded[:, None])
        return *(part.transpose(0, 1) for part in state), encoded

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        *state, encoded = state
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        outputs, state = self.recurrent(self._words(tokens, encoded), before)
        return self.head(outputs[:, -1]), (*(part.transpose(0, 1) for part in state), encoded)

    def _words(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """What the LSTM reads of words, [N, T, embedding]."""
        words = self.embedding(tokens)
        return words + encoded[:, None] if self.repeat_image else words

    def stages(self) -> dict[str, nn.Module]:
        summary = nn.ModuleList([self.what, self.where, self.summary])
        return {
            "encoder": self.encoder, "places": self.places, "there": self.there, "queries": self.queries, "summary": summary,
            "embedding": self.embedding, "recurrent": self.recurrent, "head": self.head,
        }  # fmt: skip


@register_model(
    "captioner-attention",
    task="captioning",
    tags=["cnn", "recurrent", "attention"],
    data="shapes-captions",
    tiny={"encoder_options": {"channels": [4, 8, 8], "norm": "batch"}, "hidden_size": 12, "embed_dim": 8, "feature_dim": 10},
    recipe={
        "epochs": 10, "batch_size": 64, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01, "schedule": "one-cycle",
        "gradient_clip_val": 1.0,
    },
    paper="1502.03044",
)  # fmt: skip
class CNNLSTMAttention(SeeingCaptioner):
    """Show, attend and tell (Xu et al. 2015): before each word, an LSTM looks at the places of the map that matter to it.

    Soft attention with the gate beta (section 4.2.1); each place also has an encoding of where it is, that is learned.

    Args:
        encoder: the image network, without its head.
        encoder_options: of it, as in {"width": 32}.
        encoder_weights: initial weights: pretrained, or the name or path of a run; empty is random initialization.
        freeze_encoder: leave it as it is, and compute its features of each picture only once.
        feature_dim: numbers that are kept of each place of the map.
        hidden_size: units of the LSTM.
        embed_dim: numbers a word.
        dropout: share of units that are silenced in training, of words, of the map, and in front of the head.
        coverage_weight: weight of a penalty that asks each caption to look at every place once in all (Xu's equation 14, with the
            mean over the places in place of the sum).
        num_beams: sentences that are kept at a time in writing a caption when testing or asked; 1 is greedy.
    """

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {"channels": [16, 32, 64], "norm": "batch"},  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        feature_dim: int = 96,
        hidden_size: int = 128,
        embed_dim: int = 64,
        dropout: float = 0.0,
        coverage_weight: float = 0.0,
        num_beams: int = 1,
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, encoder_weights, freeze_encoder, num_beams)
        require_positive(hidden_size=hidden_size, embed_dim=embed_dim)
        if coverage_weight < 0:
            raise UserError(f"model.coverage_weight={coverage_weight}: must be at least 0")
        self.coverage_weight = coverage_weight
        self.places = MapPlaces(self.encoder, feature_dim)
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim, padding_idx=PAD)
        self.dropout = make_dropout(dropout)
        self.attention = MapAttention(hidden_size, feature_dim, feature_dim)
        self.gate = nn.Linear(hidden_size, 1)
        self.first = nn.Linear(feature_dim, 2 * hidden_size)
        self.recurrent = nn.LSTMCell(embed_dim + feature_dim, hidden_size)
        self.output = nn.Linear(hidden_size + feature_dim + embed_dim, embed_dim)  # Xu's equation 7
        self.head = nn.Linear(embed_dim, len(spec.vocabulary))

    def encode(self, images: Tensor) -> Tensor:
        """What there is at each place, [N, places, width]."""
        return self.dropout(self.places(self.encoder(images)))

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        return self.decode_with_attention(encoded, captions)[0]

    def decode_with_attention(self, encoded: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the word after each, [N, R, T, vocabulary], and where each is looked for, [N, R, T, places]."""
        number = captions.shape[1]
        words = self.dropout(self.embedding(captions))
        keys, state = self.attention.keys(encoded), self._first_state(encoded, number)
        outputs, looks = [], []
        for word in words.unbind(2):
            output, weights, state = self._word(word, state, keys, encoded)
            outputs.append(output)
            looks.append(weights)
        return self.head(self.dropout(torch.stack(outputs, 2))), torch.stack(looks, 2)

    def _first_state(self, encoded: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """h and c for that many captions of each picture, [N * number, hidden], from the mean over the map."""
        hidden, cell = self.first(encoded.mean(1)).chunk(2, 1)
        return hidden.tanh().repeat_interleave(number, 0), cell.repeat_interleave(number, 0)

    def _word(
        self, word: Tensor, state: tuple[Tensor, Tensor], keys: Tensor, encoded: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """One step for R captions of each picture: what the head reads and where it looked, [N, R, ...], and the state.

        Args:
            word: the last word, [N, R, embedding].
            state: h and c, [N * R, hidden].
        """
        hidden = state[0].view(*word.shape[:2], -1)
        gathered, weights = self.attention(hidden, keys, encoded)
        gathered = gathered * self.gate(hidden).sigmoid()
        state = self.recurrent(torch.cat([word, gathered], 2).flatten(0, 1), state)
        told = self.output(torch.cat([state[0].view_as(hidden), gathered, word], 2))
        return told.tanh(), weights, state

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if not self.coverage_weight:
            return super().training_step(batch, batch_idx)
        captions = batch["labels"]
        logits, looks = self.decode_with_attention(self.encode(batch["images"]), captions[:, :, :-1])
        targets = captions[:, :, 1:]
        loss = self.loss(logits, targets)
        is_word = targets != PAD
        looked_at = (looks * is_word[..., None]).sum(2)  # how often in a caption, [N, R, places]
        is_caption = is_word.any(2)
        uneven = (((1 - looked_at) ** 2).mean(2) * is_caption).sum() / is_caption.sum()
        return self.objective(loss, len(captions), uneven=uneven.detach() * len(captions)) + self.coverage_weight * uneven

    def initial_state(self, encoded: Tensor) -> State:
        return (*self._first_state(encoded, 1), self.attention.keys(encoded), encoded)

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell, keys, encoded = state
        for word in self.embedding(tokens).split(1, 1):
            output, _, (hidden, cell) = self._word(word, (hidden, cell), keys, encoded)
        return self.head(output[:, 0]), (hidden, cell, keys, encoded)

    def stages(self) -> dict[str, nn.Module]:
        looking = nn.ModuleList([self.attention, self.gate, self.first])
        return {
            "encoder": self.encoder, "places": self.places, "embedding": self.embedding, "attention": looking,
            "recurrent": self.recurrent, "output": self.output, "head": self.head,
        }  # fmt: skip


@register_model(
    "captioner-transformer",
    task="captioning",
    tags=["cnn", "attention"],
    data="shapes-captions",
    tiny={"encoder_options": {"channels": [4, 8, 8], "norm": "batch"}, "embed_dim": 8, "num_layers": 2, "num_heads": 2},
    recipe={
        "epochs": 10, "batch_size": 64, "optimizer": "adamw", "optimizer_args": {"betas": [0.9, 0.98]}, "lr": 1e-3,
        "weight_decay": 0.01, "schedule": "one-cycle", "gradient_clip_val": 1.0,
    },
    paper="1706.03762",
)  # fmt: skip
class CNNTransformer(SeeingCaptioner):
    """Transformer that writes while it looks: causal self-attention over the words, cross-attention to the places of the map.

    Args:
        encoder: the image network, without its head.
        encoder_options: of it, as in {"width": 32}.
        encoder_weights: initial weights: pretrained, or the name or path of a run; empty is random initialization.
        freeze_encoder: leave it as it is, and compute its features of each picture only once.
        num_layers: blocks of two attentions and a perceptron.
        num_heads: of each attention; they share the width.
        embed_dim: numbers a word, and a place of the map.
        dropout: share of units that are silenced in training.
        num_beams: sentences that are kept at a time in writing a caption when testing or asked; 1 is greedy.
    """

    def __init__(
        self,
        spec: CaptionSpec,
        recipe: Recipe,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {"channels": [16, 32, 64], "norm": "batch"},  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        num_layers: int = 2,
        num_heads: int = 4,
        embed_dim: int = 128,
        dropout: float = 0.0,
        num_beams: int = 1,
    ) -> None:
        super().__init__(spec, recipe, encoder, encoder_options, encoder_weights, freeze_encoder, num_beams)
        require_positive(num_layers=num_layers)
        self.places = MapPlaces(self.encoder, embed_dim)
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim)
        self.positions = nn.Embedding(spec.length, embed_dim)
        self.dropout = make_dropout(dropout)
        self.blocks = nn.ModuleList(DecoderBlock(embed_dim, num_heads, 4 * embed_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, len(spec.vocabulary))
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=INITIAL_DEVIATION)

    def encode(self, images: Tensor) -> Tensor:
        """What there is at each place, [N, places, width]."""
        return self.dropout(self.places(self.encoder(images)))

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        features = self._embedded(captions.flatten(0, 1), first=0)
        for block in self.blocks:
            features, _ = block(features, block.look.read(encoded))
        return self.head(self.norm(features)).unflatten(0, captions.shape[:2])

    def decode_with_attention(self, encoded: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the word after each, [N, R, T, vocabulary], and where each is looked for, [N, R, T, places].

        The latter is the mean over all heads of all layers.
        """
        looks: list[Tensor] = []
        layers = [block.look for block in self.blocks]
        hooks = [layer.register_forward_pre_hook(lambda layer, inputs: looks.append(layer.weights(*inputs))) for layer in layers]
        try:
            scores = self.decode(encoded, captions)
        finally:
            for hook in hooks:
                hook.remove()
        return scores, torch.stack(looks).mean((0, 2)).unflatten(1, captions.shape[1:])

    def initial_state(self, encoded: Tensor) -> State:
        return tuple((block.look.read(encoded), None) for block in self.blocks)

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        past = state[0][1]
        features = self._embedded(tokens, first=0 if past is None else past[0].shape[2])
        kept = []
        for block, (read, past) in zip(self.blocks, state, strict=True):
            features, past = block(features, Past(*read), past and Past(*past))
            kept.append((read, past))
        return self.head(self.norm(features[:, -1])), tuple(kept)

    def _embedded(self, tokens: Tensor, first: int) -> Tensor:
        """Words and their places, counted from ``first``, as vectors [N, T, width]."""
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.dropout(self.embedding(tokens) + self.positions(places))

    def stages(self) -> dict[str, nn.Module]:
        blocks = {f"block{number}": block for number, block in enumerate(self.blocks, 1)}
        words = nn.ModuleList([self.embedding, self.positions])
        return {
            "encoder": self.encoder,
            "places": self.places,
            "embedding": words,
            **blocks,
            "norm": self.norm,
            "head": self.head,
        }


class MapPlaces(nn.Module):
    """A map of features as a sequence of its places, row by row, each told where it is.

    The last two numbers of a place are its coordinates, from -1 to 1: who attends to some places gathers where they are.

    Args:
        encoder: whose map it is.
        dim: dimensions of each location, coordinates included.
    """

    def __init__(self, encoder: ImageEncoder, dim: int) -> None:
        super().__init__()
        if dim < 4:
            raise UserError(
                f"each location of the feature map needs at least 4 dimensions (model.feature_dim, model.embed_dim): {dim}"
            )
        rows, columns = encoder.grid
        self.project = nn.Linear(encoder.features, dim - COORDINATES)
        self.positions = nn.Parameter(torch.randn(rows * columns, dim - COORDINATES) * INITIAL_DEVIATION)
        y, x = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in (rows, columns)), indexing="ij")
        self.register_buffer("coordinates", torch.stack([x, y], 2).view(-1, 2), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[N, features, rows, columns] to [N, places, width]."""
        there = F.relu(self.project(features.flatten(2).transpose(1, 2)) + self.positions)
        return torch.cat([there, self.coordinates.expand(len(there), -1, -1)], 2)


def require_positive(**options: int) -> None:
    """Refuse a size below one.

    Raises:
        UserError: which, and its value.
    """
    for name, value in options.items():
        if value < 1:
            raise UserError(f"model.{name}={value}: must be at least 1")
