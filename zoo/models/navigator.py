"""A sequence-to-sequence agent for vision-and-language navigation."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.registry.entry import register_model
from zoo.spec import END, PAD, NavigationSpec
from zoo.tasks.navigation import NavigationAgent


class Instruction(NamedTuple):
    """Encoded instruction: hidden states ``keys``, [N, L, hidden_size], and a padding mask, bool [N, L]."""

    keys: Tensor
    is_padding: Tensor


class Decoder(nn.Module):
    """Decoder of actions that attends to the words of the instruction; the attended words gate what is seen.

    A subclass says what of a view goes into the LSTM cell, and how actions are scored.
    """

    query: nn.Linear

    def attend(self, memory: Instruction, hidden: Tensor) -> Tensor:
        """Attended hidden state of the instruction, [N, hidden_size] (Luong et al. 2015, "general")."""
        scores = (memory.keys @ self.query(hidden)[:, :, None])[:, :, 0]
        weights = scores.masked_fill(memory.is_padding, -torch.inf).softmax(1)
        return (weights[:, None] @ memory.keys)[:, 0]


class CameraDecoder(Decoder):
    """Decoder of a few actions with names, from images: convolutions, an embedding of the previous action, and a linear head.

    The state is h and c of the cell, [N, hidden_size] each.
    """

    def __init__(self, spec: NavigationSpec, hidden_size: int, embed_dim: int, channels: list[int], dropout: float) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise UserError(f"model.channels={channels}: give the channels of at least one convolution, as in [16,32,32]")
        spec.image.require_size("navigator", 2 ** len(channels))
        self.convolutions = nn.Sequential()
        for before, after in zip([spec.image.channels, *channels], channels, strict=False):
            self.convolutions.extend([nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()])
        height, width = spec.image.height, spec.image.width
        for _ in channels:
            height, width = -(-height // 2), -(-width // 2)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Linear(hidden_size, channels[-1])
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(channels[-1] * height * width, hidden_size), nn.ReLU(), make_dropout(dropout)
        )
        self.actions = nn.Embedding(len(spec.actions) + 1, embed_dim)
        self.cell = nn.LSTMCell(2 * hidden_size + embed_dim, hidden_size)
        self.head = nn.Sequential(make_dropout(dropout), nn.Linear(hidden_size, len(spec.actions)))

    def begin(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The first state, of the last hidden state of the instruction."""
        return hidden, torch.zeros_like(hidden)

    def forward(
        self, features: Tensor, previous: Tensor, memory: Instruction, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = state
        words = self.attend(memory, h)
        gated = features * self.gate(words).sigmoid()[:, :, None, None]
        h, c = self.cell(torch.cat([self.features(gated), words, self.actions(previous)], 1), (h, c))
        return self.head(h), (h, c)

    def stages(self) -> dict[str, nn.Module]:
        decoder = nn.ModuleList([self.query, self.gate, self.features, self.actions, self.cell])
        return {"convolutions": self.convolutions, "decoder": decoder, "head": self.head}


class PanoramicDecoder(Decoder):
    """Decoder of directions to go in, each with features (Fried et al. 2018, arXiv:1806.02724).

    It attends to the directions, is told the one that was taken before, and scores each by its product with the new hidden state.
    The state is h and c of the cell, and the directions of the step before, [N, hidden_size, actions + 1], the last of them zero
    for that there was none.
    """

    def __init__(self, spec: NavigationSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.num_actions = len(spec.actions)
        # no bias: a direction that does not exist stays zero
        self.convolutions = nn.Sequential(
            make_dropout(dropout), nn.Conv2d(spec.image.channels, hidden_size, 1, bias=False), nn.Tanh()
        )
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.look = nn.Linear(hidden_size, hidden_size, bias=False)
        self.cell = nn.LSTMCell(3 * hidden_size, hidden_size)
        self.head = nn.Sequential(make_dropout(dropout), nn.Linear(hidden_size, hidden_size, bias=False))

    def begin(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The first state, of the last hidden state of the instruction."""
        return hidden, torch.zeros_like(hidden), hidden.new_zeros(*hidden.shape, self.num_actions + 1)

    def forward(
        self, features: Tensor, previous: Tensor, memory: Instruction, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c, before = state
        words = self.attend(memory, h)
        directions = features[:, :, 0] * self.gate(words).sigmoid()[:, :, None]
        weights = (self.look(h)[:, None] @ directions).masked_fill(~features.any(1), -torch.inf).softmax(2)
        seen = (directions @ weights.mT)[:, :, 0]
        taken = before.gather(2, previous[:, None, None].expand(-1, before.shape[1], 1))[:, :, 0]
        h, c = self.cell(torch.cat([seen, words, taken], 1), (h, c))
        return (self.head(h)[:, None] @ directions)[:, 0], (h, c, F.pad(directions, (0, 1)))

    def stages(self) -> dict[str, nn.Module]:
        decoder = nn.ModuleList([self.query, self.gate, self.look, self.cell])
        return {"convolutions": self.convolutions, "decoder": decoder, "head": self.head}


@register_model(
    "navigator",
    task="navigation",
    tags=["recurrent"],
    data="rooms",
    tiny={"hidden_size": 16, "channels": [4, 8], "embed_dim": 8},
    recipe={
        "epochs": 4, "batch_size": 64, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "one-cycle",
        "gradient_clip_val": 1.0,
    },
    paper="1711.07280",
)  # fmt: skip
class Navigator(NavigationAgent):
    """Seq2Seq agent (Anderson et al. 2018): LSTM encoder of the instruction, and LSTM decoder of actions with attention.

    Views are images, which a CNN reads, or have features for each direction in which one can go. Two changes, since the
    instruction decides what to look for: the attended words are an input of the decoder, and they gate the channels of the image
    features (Chaplot et al. 2018, arXiv:1706.07230).

    Args:
        hidden_size: dimensions of both LSTMs' hidden state.
        embed_dim: dimensions of word and action embeddings.
        channels: output channels of each convolution of images; each halves the view.
        dropout: dropout probability of image features and of the head's input.
        forcing: teacher, expert actions on the expert's path; or student, expert actions on the agent's own sampled path.
    """

    def __init__(
        self,
        spec: NavigationSpec,
        recipe: Recipe | None = None,
        hidden_size: int = 128,
        embed_dim: int = 32,
        channels: list[int] = [16, 32, 32],  # noqa: B006
        dropout: float = 0.0,
        forcing: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__(spec, recipe, forcing)
        require_positive(hidden_size=hidden_size, embed_dim=embed_dim)
        self.words = nn.Embedding(len(spec.vocabulary), embed_dim)
        self.instruction_encoder = nn.LSTM(embed_dim, hidden_size, batch_first=True)
        self.decoder: CameraDecoder | PanoramicDecoder = (
            PanoramicDecoder(spec, hidden_size, dropout)
            if spec.panoramic
            else CameraDecoder(spec, hidden_size, embed_dim, channels, dropout)
        )

    def encode_instruction(self, words: Tensor) -> tuple[Instruction, tuple[Tensor, ...]]:
        outputs, _ = self.instruction_encoder(self.words(words))
        last = outputs[torch.arange(len(words), device=words.device), (words == END).int().argmax(1)]
        return Instruction(outputs, words == PAD), self.decoder.begin(last)

    def extract_features(self, views: Tensor) -> Tensor:
        return self.decoder.convolutions(views)

    def forward(
        self, features: Tensor, previous: Tensor, memory: Instruction, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.decoder(features, previous, memory, state)

    def stages(self) -> dict[str, nn.Module]:
        return {"instruction": nn.ModuleList([self.words, self.instruction_encoder]), **self.decoder.stages()}
