"""A Lightning module that knows nothing of the zoo, with every kind of layer, and a Trainer for it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Everything(L.LightningModule):
    """Images [N, 3, 8, 8] and words [N, 5] in, four scores out; no layer mixes the samples of a batch unless ``norm`` is set."""

    def __init__(self, lr: float = 0.05, norm: bool = False) -> None:
        super().__init__()
        self.lr = lr
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.GroupNorm(2, 6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.words = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.layer_norm = nn.LayerNorm(8)
        self.joined = nn.Linear(24 + 8, 7)
        self.sigmoid = nn.Sigmoid()
        self.gelu = nn.GELU()
        self.head = nn.Linear(7, 4)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        seen = self.pool(self.relu(self.norm(self.conv(images)))).flatten(1)
        told = self.words(words)
        told = told + self.attention(told, told, told, need_weights=False)[0]
        told = self.layer_norm(self.lstm(told)[0][:, -1])
        joined = self.joined(torch.cat([seen, torch.tanh(4 * told)], 1))
        return self.head(F.relu(self.gelu(3 * self.sigmoid(5 * joined)) - 1.5))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, words, labels = batch
        return F.cross_entropy(self(images, words), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


def data(n: int = 32, batch_size: int = 8, order: list[int] | None = None) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    tensors = (
        torch.randn(n, 3, 8, 8, generator=generator),
        torch.randint(0, 11, (n, 5), generator=generator),
        torch.randint(0, 4, (n,), generator=generator),
    )
    return DataLoader(TensorDataset(*tensors), batch_size, sampler=order)


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", callbacks=list(callbacks), **{"max_epochs": 1, **quiet, **options})


def hooks_of(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(each, kind)) for each in module.modules() for kind in kinds)
