"""A sequence-to-sequence agent for navigation: it reads an instruction, looks, and acts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.registry.entry import register_model
from zoo.spec import END, PAD, NavigationSpec
from zoo.tasks.navigation import NavigationAgent


class Read(NamedTuple):
    """An instruction as it was read: ``keys``, [N, L, hidden], and where padding is, bool [N, L]."""

    keys: Tensor
    is_padding: Tensor


State = tuple[Tensor, Tensor]  # of the acting LSTM, h and c, each [N, hidden]


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
    """Sequence-to-sequence agent: an LSTM reads the instruction, convolutions look, and an LSTM that attends to the words acts.

    As in Anderson et al. 2018, with two changes, since what one is told decides what to look for: the words are attended
    to before the acting LSTM, not behind it, and what they say opens and shuts the channels of the features (Chaplot et al. 2018,
    arXiv:1706.07230).

    Args:
        hidden_size: units of both LSTMs.
        embed_dim: numbers for each word, and for each action.
        channels: of the convolutions, each of which halves the view.
        dropout: share of the features and of the decision's inputs that is silenced in training.
        forcing: teacher, which imitates the expert on the expert's way; or student, wherever the agent's own samples lead.
    """

    def __init__(
        self,
        spec: NavigationSpec,
        recipe: Recipe,
        hidden_size: int = 128,
        embed_dim: int = 32,
        channels: list[int] = [16, 32, 32],  # noqa: B006
        dropout: float = 0.0,
        forcing: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__(spec, recipe, forcing)
        if min(hidden_size, embed_dim) < 1:
            raise UserError(f"model.hidden_size={hidden_size}, model.embed_dim={embed_dim}: both must be at least 1")
        if not channels or min(channels) < 1:
            raise UserError(f"model.channels={channels}: give the channels of at least one convolution, as in [16,32,32]")
        spec.image.require_size("navigator", 2 ** len(channels))
        self.words = nn.Embedding(len(spec.vocabulary), embed_dim)
        self.reader = nn.LSTM(embed_dim, hidden_size, batch_first=True)
        layers = [
            layer
            for before, after in zip([spec.image.channels, *channels], channels, strict=False)
            for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU())
        ]
        self.eye = nn.Sequential(*layers)
        height, width = spec.image.height, spec.image.width
        for _ in channels:
            height, width = -(-height // 2), -(-width // 2)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Linear(hidden_size, channels[-1])
        self.gist = nn.Sequential(
            nn.Flatten(), nn.Linear(channels[-1] * height * width, hidden_size), nn.ReLU(), make_dropout(dropout)
        )
        self.actions = nn.Embedding(len(spec.actions) + 1, embed_dim)
        self.actor = nn.LSTMCell(2 * hidden_size + embed_dim, hidden_size)
        self.head = nn.Sequential(make_dropout(dropout), nn.Linear(hidden_size, len(spec.actions)))

    def encode_instruction(self, words: Tensor) -> tuple[Read, State]:
        outputs, _ = self.reader(self.words(words))
        last = outputs[torch.arange(len(words), device=words.device), (words == END).int().argmax(1)]
        return Read(outputs, words == PAD), (last, torch.zeros_like(last))

    def extract_features(self, views: Tensor) -> Tensor:
        return self.eye(views)

    def forward(self, features: Tensor, previous: Tensor, memory: Read, state: State) -> tuple[Tensor, State]:
        told = self.attend(memory, state[0])
        opened = features * self.gate(told).sigmoid()[:, :, None, None]
        h, c = self.actor(torch.cat([self.gist(opened), told, self.actions(previous)], 1), state)
        return self.head(h), (h, c)

    def attend(self, memory: Read, hidden: Tensor) -> Tensor:
        """What the words say that matter now, [N, hidden] (Luong et al. 2015, "general")."""
        scores = (memory.keys @ self.query(hidden)[:, :, None])[:, :, 0]
        weights = scores.masked_fill(memory.is_padding, -torch.inf).softmax(1)
        return (weights[:, None] @ memory.keys)[:, 0]

    def stages(self) -> dict[str, nn.Module]:
        acting = nn.ModuleList([self.query, self.gate, self.gist, self.actions, self.actor])
        return {"reader": nn.ModuleList([self.words, self.reader]), "eye": self.eye, "actor": acting, "head": self.head}
