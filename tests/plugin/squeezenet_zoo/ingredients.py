"""An optimizer, a loss and an augmentation."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from zoo import register_augmentation, register_loss, register_optimizer


@register_optimizer("lion")
class Lion(Optimizer):
    """Lion: the sign of a mean of gradients (Chen et al. 2023, algorithm 2).

    Args:
        betas: decay of the two means.
    """

    def __init__(self, params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    update = torch.lerp(parameter.grad, mean, group["betas"][0]).sign_()
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
                    mean.lerp_(parameter.grad, 1 - group["betas"][1])
        return loss


@register_optimizer("slow", momentum=0.99)
class Slow(SGD):
    """Stochastic gradient descent with much momentum."""


@register_loss("softmax-focal", task="classification")
def focal(logits, targets, reduction, gamma: float = 2.0):
    """Focal loss (Lin et al. 2017, equation 4) of the softmax."""
    losses = F.cross_entropy(logits, targets, reduction="none")
    losses = (1 - torch.exp(-losses)) ** gamma * losses
    return losses.mean() if reduction == "mean" else losses


@register_augmentation("gray")
def gray(batch, generator, probability: float = 0.5):
    """Take the color from each image with a probability."""
    images = batch["images"]
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < probability
    without = images.float().mean(1, keepdim=True).to(images.dtype)
    return {**batch, "images": torch.where(chosen.to(images.device), without, images)}
