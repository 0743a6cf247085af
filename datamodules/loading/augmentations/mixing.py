"""Mixtures of each image and its label with another of the batch: mixup and cutmix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.datamodules.loading.augmentations.erasing import inside_boxes
from zoo.datamodules.loading.loader import Batch
from zoo.registry.entry import register_augmentation
from zoo.spec import IGNORE


@register_augmentation("mixup")
def mixup(batch: Batch, generator: torch.Generator, classes: int, alpha: float = 0.2) -> Batch:
    """Average each image and its label with those of another one (Zhang et al. 2017, eq. 1). Images become float."""
    n = len(batch["images"])
    weight, partner = _beta(alpha, n, generator), torch.randperm(n, generator=generator)
    images = batch["images"].float()
    partner = partner.to(images.device)
    own = weight.to(images.device)
    mixed = torch.lerp(images.index_select(0, partner), images, own.view(n, 1, 1, 1))
    return {**batch, "images": mixed, **_mixed_targets(batch, partner, own, classes)}


@register_augmentation("cutmix")
def cutmix(batch: Batch, generator: torch.Generator, classes: int, alpha: float = 1.0) -> Batch:
    """Paste a box of another image and mix the labels by area (Yun et al. 2019, eq. 1 and 2)."""
    images = batch["images"]
    n, _, height, width = images.shape
    partner = torch.randperm(n, generator=generator)
    cut = torch.sqrt(1 - _beta(alpha, n, generator))[:, None]
    y = torch.randint(0, height, (n, 1), generator=generator)
    x = torch.randint(0, width, (n, 1), generator=generator)
    half_height, half_width = (cut * height / 2).round().long(), (cut * width / 2).round().long()
    box = inside_boxes(y - half_height, x - half_width, y + half_height, x + half_width, height, width)
    own = 1 - box.float().mean((1, 2, 3))  # the area that is really left, after cutting at the border
    partner, box, own = partner.to(images.device), box.to(images.device), own.to(images.device)
    mixed = torch.where(box, images.index_select(0, partner), images)
    return {**batch, "images": mixed, **_mixed_targets(batch, partner, own, classes)}


@register_augmentation("mixup-or-cutmix")
def mixup_or_cutmix(
    batch: Batch, generator: torch.Generator, classes: int, mixup_alpha: float = 0.2, cutmix_alpha: float = 1.0
) -> Batch:
    """Mix each batch by mixup or by cutmix, each with probability 0.5 (Wightman et al. 2021, table 2)."""
    is_mixup = bool(torch.rand((), generator=generator) < 0.5)
    return mixup(batch, generator, classes, mixup_alpha) if is_mixup else cutmix(batch, generator, classes, cutmix_alpha)


def _beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """n draws of Beta(alpha, alpha), as the fraction of one of two Gamma draws; torch.distributions takes no generator."""
    first, second = torch._standard_gamma(torch.full((2, n), alpha, dtype=torch.float64), generator=generator)
    return (first / (first + second).clamp(min=1e-300)).float()


def _mixed_targets(batch: Batch, partner: Tensor, own: Tensor, classes: int) -> Batch:
    """Soft targets [N, classes]; ``labels`` stay the unmixed ones, with which accuracy compares."""
    soft, labels = batch.get("targets"), batch["labels"]
    if soft is None:
        several = labels.dim() > 1  # labels an image
        soft = labels.float().masked_fill(labels == IGNORE, torch.nan) if several else F.one_hot(labels, classes).float()
    return {"targets": torch.lerp(soft.index_select(0, partner), soft, own[:, None])}
