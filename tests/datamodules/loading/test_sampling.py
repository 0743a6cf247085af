"""Balanced sampling: what is drawn, how often, and that it follows from the position alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from zoo.datamodules.loading.sampling import balanced_indices
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory, Split

SIZES = (40, 13, 5, 0, 1)  # of classes


def labels_of(*sizes: int) -> torch.Tensor:
    """Labels of classes with these sizes, in any order."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_each_class_that_occurs_is_drawn_equally_often_and_no_image_twice_more_than_another_of_it() -> None:
    labels, drawn = labels_of(*SIZES), torch.zeros(sum(SIZES), dtype=torch.long)
    for epoch in range(7):
        chosen = balanced_indices(labels, 3, epoch)
        of_epoch = torch.bincount(labels[chosen], minlength=len(SIZES))
        assert len(chosen) == len(labels) and of_epoch[3] == 0
        assert of_epoch[[0, 1, 2, 4]].max() - of_epoch[[0, 1, 2, 4]].min() <= 1
        drawn += torch.bincount(chosen, minlength=len(labels))
        for label in labels.unique():  # over all epochs so far, too
            of_class = drawn[labels == label]
            assert of_class.max() - of_class.min() <= 1
    totals = torch.zeros(len(SIZES), dtype=torch.long).scatter_add(0, labels, drawn)
    assert totals[[0, 1, 2, 4]].max() - totals[[0, 1, 2, 4]].min() <= 1


def test_draws_differ_by_epoch_and_seed_and_are_the_same_again() -> None:
    labels = labels_of(40, 13, 5)
    drawn = {place: balanced_indices(labels, *place).tolist() for place in itertools.product((0, 1), (0, 1))}
    assert len({tuple(chosen) for chosen in drawn.values()}) == 4
    assert all(balanced_indices(labels, *place).tolist() == chosen for place, chosen in drawn.items())


def batches(rank: int, world: int, batch_size: int, epoch: int = 0, first: int = 0) -> list[torch.Tensor]:
    labels = labels_of(40, 13, 5)
    split = Split(ImagesInMemory(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)), labels)
    loader = ImageLoader(split, batch_size, 0, balanced=True, rank=rank, world=world, position=lambda: (epoch, first))
    assert len(loader) == len(labels) // (batch_size * world), "as many steps as without"
    return [batch["images"].flatten() for batch in loader]


@pytest.mark.parametrize("epoch", [0, 2])
def test_batches_follow_from_the_step_and_are_parts_of_the_same_global_batch(epoch: int) -> None:
    alone = batches(0, 1, 8, epoch)
    both = zip(batches(0, 2, 4, epoch), batches(1, 2, 4, epoch), strict=True)
    assert torch.equal(torch.stack(alone), torch.stack([torch.cat(parts) for parts in both]))
    assert torch.equal(torch.stack(alone[3:]), torch.stack(batches(0, 1, 8, epoch, first=3))), "from any step on"
