"""The k-nearest-neighbors classifier: it remembers the training images and compares new ones with them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.neighbors import NearestNeighbors
from zoo.registry.entry import register_model
from zoo.spec import IGNORE, ImageSpec
from zoo.tasks.classification import Classifier

LEAST_SHARE = 1e-6  # of the votes, so that the loss of a class that nobody votes for is finite
TIE_BREAK = 1e-4  # what is added to the winner's share of the votes
EQUAL = 1e-9  # relative difference of sums of weights that is rounding


@register_model(
    "knn",
    task="classification",
    tags=["nearest-neighbors"],
    data="digits",
    augment="none",
    recipe={"epochs": 1, "batch_size": 256},
)
class KNearestNeighbors(Classifier):
    """k-nearest neighbors: remembers the training images and takes a vote of those nearest to a new one (Cover and Hart 1967).

    Distances are between pixels as they are, from 0 to 255, and exact. If two classes have as many votes, the nearest
    neighbor among theirs decides.

    Args:
        k: neighbors that vote.
        metric: L1, the sum of absolute differences of pixels, or L2, the Euclidean distance.
        vote: majority, one vote each; or distance, a neighbor's vote weighs 1 / distance.
    """

    one_pass = True

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe,
        k: int = 1,
        metric: Literal["L1", "L2"] = "L2",
        vote: Literal["majority", "distance"] = "majority",
    ) -> None:
        super().__init__(spec, recipe)
        if k < 1:
            raise UserError(f"model.k={k}: must be at least 1")
        self.k, self.metric, self.vote = k, metric, vote
        self.memory = Memory()
        self._neighbors: NearestNeighbors | None = None

    def stages(self) -> dict[str, nn.Module]:
        return {"head": self.memory}

    def prepare(self, data: Any) -> None:
        known = len(data.splits["train"])
        if self.k > known:
            raise UserError(f"model.k={self.k}: there are only {known} training images")

    # ------------------------------------------------------------------ remembering

    def on_train_start(self) -> None:
        super().on_train_start()
        trainer = self.trainer
        batches = trainer.num_training_batches * trainer.world_size
        self.memory.clear(min(len(trainer.datamodule.splits["train"]), batches * self.recipe.batch_size), self.spec.shape)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # batches come in the order of the images, one to each process in turn
        place = (batch_idx * self.trainer.world_size + self.trainer.global_rank) * self.recipe.batch_size
        counted = batch["labels"] != IGNORE
        self.remember(batch["images"][counted], batch["labels"][counted], place)

    def remember(self, images: Tensor, labels: Tensor, place: int) -> None:
        """Keep images, uint8 [n, C, H, W], and their classes, int64 [n], from the given place on."""
        self.memory.images[place : place + len(labels)] = images.flatten(1)
        self.memory.labels[place : place + len(labels)] = labels
        self._neighbors = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch and self.trainer.world_size > 1:
            # each process has filled its own places; the others' are zero
            for remembered in (self.memory.images, self.memory.labels):
                remembered.copy_(self.trainer.strategy.reduce(remembered, reduce_op="sum"))

    # ------------------------------------------------------------------ comparing

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels stay bytes."""
        return images.round().clamp(0, 255).to(torch.uint8) if images.is_floating_point() else images

    def forward(self, images: Tensor) -> Tensor:
        """The logarithm of each class's share of the votes, float32 [n, classes]; uniform as long as nothing is remembered."""
        classes = len(self.spec.classes)
        if not len(self.memory.labels):
            return torch.full((len(images), classes), 1 / classes, device=images.device).log()
        if self._neighbors is None:
            self._neighbors = NearestNeighbors(self.memory.images, self.metric)
        k = min(self.k, len(self.memory.labels))
        distances, places = self._neighbors.search(images.flatten(1), k)
        distances = distances.sqrt() if self.metric == "L2" else distances
        votes = self.votes(distances.double(), self.memory.labels[places])
        return votes.clamp_min(LEAST_SHARE).log().float()

    def votes(self, distances: Tensor, labels: Tensor) -> Tensor:
        """Each class's share of the votes of k neighbors, the nearest first.

        Args:
            distances: float64, [n, k].
            labels: their classes, int64 [n, k].

        Returns:
            float64, [n, classes]; the class that wins a tie is raised by a ten-thousandth.
        """
        n, k = labels.shape
        weights = torch.ones_like(distances)
        if self.vote == "distance":
            same = distances == 0  # an image that is known outvotes all others
            weights = torch.where(same.any(1, keepdim=True), same.double(), 1 / distances)
        shape = (n, len(self.spec.classes))
        sums = distances.new_zeros(shape).scatter_add(1, labels, weights)
        order = torch.arange(k, device=labels.device).expand(n, k)
        nearest = order.new_full(shape, k).scatter_reduce(1, labels, order, "amin")  # place of a class's nearest neighbor
        tied = sums >= sums.amax(1, keepdim=True) * (1 - EQUAL)
        winner = torch.where(tied, nearest, k).argmin(1, keepdim=True)
        shares = sums / sums.sum(1, keepdim=True)
        return shares.scatter_add(1, winner, torch.full_like(shares, TIE_BREAK)) / (1 + TIE_BREAK)


class Memory(nn.Module):
    """Images as vectors, uint8 [N, D], and their classes, int64 [N]; N is what a state dict says."""

    images: Tensor
    labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("images", torch.empty(0, 0, dtype=torch.uint8))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def clear(self, count: int, shape: tuple[int, ...]) -> None:
        """Room for ``count`` images of that shape, all zero."""
        self.images = self.images.new_zeros(count, int(torch.Size(shape).numel()))
        self.labels = self.labels.new_zeros(count)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("images", "labels"):
            if (kept := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_zeros(kept.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
