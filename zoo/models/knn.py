"""The k-nearest-neighbors classifier."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.neighbors import NearestNeighbors
from zoo.registry.entry import register_model
from zoo.spec import IGNORE, ImageSpec
from zoo.tasks.classification import Classifier

MIN_SHARE = 1e-6  # of the votes, so that the loss of a class without votes is finite
TIE_BREAK = 1e-4  # added to the winner's share of the votes
TIE_TOLERANCE = 1e-9  # relative difference of sums of weights within rounding


@register_model(
    "knn",
    task="classification",
    tags=["nearest-neighbors"],
    data="digits",
    augment="none",
    recipe={"epochs": 1, "batch_size": 256},
)
class KNearestNeighbors(Classifier):
    """k-nearest neighbors (Cover and Hart 1967): stores the training images; a new one gets the majority class of its neighbors.

    Distances between raw pixels, 0 to 255, are exact. Ties between classes are broken by the nearest neighbor.

    Args:
        k: number of neighbors.
        metric: L1 (Manhattan) or L2 (Euclidean) distance.
        vote: majority, uniform weights; or distance, weights 1 / distance.
    """

    one_pass = True
    explain_command = ""  # there is no gradient

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        k: int = 1,
        metric: Literal["L1", "L2"] = "L2",
        vote: Literal["majority", "distance"] = "majority",
    ) -> None:
        super().__init__(spec, recipe)
        require_positive(k=k)
        self.k, self.metric, self.vote = k, metric, vote
        self.stored = StoredImages()
        self._neighbors: NearestNeighbors | None = None

    def stages(self) -> dict[str, nn.Module]:
        return {"head": self.stored}

    def prepare(self, data: Any) -> None:
        if self.k > (count := len(data.splits["train"])):
            raise UserError(f"model.k={self.k}: there are only {count} training images")

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        super().on_train_start()
        trainer = self.trainer
        batches = trainer.num_training_batches * trainer.world_size
        self.stored.clear(min(len(trainer.datamodule.splits["train"]), batches * self.recipe.batch_size), self.spec.shape)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # batches come in the order of the images, to each process in turn
        start = (batch_idx * self.trainer.world_size + self.trainer.global_rank) * self.recipe.batch_size
        counted = batch["labels"] != IGNORE
        self.store(batch["images"][counted], batch["labels"][counted], start)

    def store(self, images: Tensor, labels: Tensor, start: int) -> None:
        """Store images, uint8 [n, C, H, W], and labels, int64 [n], from index ``start`` on."""
        self.stored.images[start : start + len(labels)] = images.flatten(1)
        self.stored.labels[start : start + len(labels)] = labels
        self._neighbors = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch and self.trainer.world_size > 1:
            # rows that other processes have filled are zero here
            for buffer in (self.stored.images, self.stored.labels):
                buffer.copy_(self.trainer.strategy.reduce(buffer, reduce_op="sum"))

    # ------------------------------------------------------------------ prediction

    def normalize(self, images: Tensor) -> Tensor:
        """Return pixels as uint8, without normalization."""
        return images.round().clamp(0, 255).to(torch.uint8) if images.is_floating_point() else images

    def forward(self, images: Tensor) -> Tensor:
        """Log of each class's fraction of the votes, float32 [n, classes]; uniform before training."""
        classes = len(self.spec.classes)
        if not len(self.stored.labels):
            return torch.full((len(images), classes), 1 / classes, device=images.device).log()
        if self._neighbors is None:
            self._neighbors = NearestNeighbors(self.stored.images, self.metric)
        k = min(self.k, len(self.stored.labels))
        distances, indices = self._neighbors.search(images.flatten(1), k)
        distances = distances.sqrt() if self.metric == "L2" else distances
        votes = self.votes(distances.double(), self.stored.labels[indices])
        return votes.clamp_min(MIN_SHARE).log().float()

    def votes(self, distances: Tensor, labels: Tensor) -> Tensor:
        """Each class's fraction of the votes of k neighbors.

        Args:
            distances: float64 [n, k], ascending.
            labels: labels of the neighbors, int64 [n, k].

        Returns:
            float64 [n, classes]; the winner of a tie is raised by 1e-4.
        """
        n, k = labels.shape
        weights = torch.ones_like(distances)
        if self.vote == "distance":
            same = distances == 0  # an identical image outvotes all others
            weights = torch.where(same.any(1, keepdim=True), same.double(), 1 / distances)
        shape = (n, len(self.spec.classes))
        sums = distances.new_zeros(shape).scatter_add(1, labels, weights)
        order = torch.arange(k, device=labels.device).expand(n, k)
        nearest = order.new_full(shape, k).scatter_reduce(1, labels, order, "amin")  # rank of a class's nearest neighbor
        tied = sums >= sums.amax(1, keepdim=True) * (1 - TIE_TOLERANCE)
        winner = torch.where(tied, nearest, k).argmin(1, keepdim=True)
        shares = sums / sums.sum(1, keepdim=True)
        return shares.scatter_add(1, winner, torch.full_like(shares, TIE_BREAK)) / (1 + TIE_BREAK)


class StoredImages(nn.Module):
    """Buffers of images, uint8 [N, D], and labels, int64 [N]; loading a state dict sets N."""

    images: Tensor
    labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("images", torch.empty(0, 0, dtype=torch.uint8))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def clear(self, count: int, shape: tuple[int, ...]) -> None:
        """Allocate zeros for ``count`` images of this shape."""
        self.images = self.images.new_zeros(count, int(torch.Size(shape).numel()))
        self.labels = self.labels.new_zeros(count)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("images", "labels"):
            if (kept := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_zeros(kept.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
