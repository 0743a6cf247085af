"""The contract of data sets: batches fit the spec, follow from seed and position, and count each sample once in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from zoo.config.options import check_options
from zoo.core.violation import require
from zoo.registry.entry import Entry

Batch = dict[str, Any]


def checks_of_data(entry: Entry, settings: Sequence[dict[str, dict[str, Any]]] = ()) -> dict[str, Callable[[], None]]:
    """The checks of a data set, by what each proves; each raises ``Violation``.

    Raises:
        Exception: the data set cannot even be made.
    """
    options = {key: value for layer in settings for key, value in layer["data"].items()}
    data = entry.load()(16, 0, **check_options(entry, {**entry.tiny, **options}))
    _ = data.spec  # known before anything is fetched
    data.prepare_data()
    data.setup()
    return {name: partial(check, data) for name, check in DATA_CHECKS.items()}


def _are_equal(first: Batch, second: Batch) -> bool:
    tensors = [{name: value for name, value in batch.items() if isinstance(value, Tensor)} for batch in (first, second)]
    return tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(value, tensors[1][name]) for name, value in tensors[0].items()
    )


def _batches_fit(data: Any) -> None:
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        data.check_batch(data.on_after_batch_transfer(next(iter(loader)), 0))


def _order_follows(data: Any) -> None:
    loader = data.train_dataloader()
    first, *others = islice(loader, 2)
    require(_are_equal(first, next(iter(data.train_dataloader()))), "the same seed gave two orders")
    loader.position = lambda: (1, 0)
    require(not _are_equal(first, next(iter(loader))), "two epochs have the same order")
    for second in others:
        require(not _are_equal(first, second), "two steps have the same batch")
        loader.position = lambda: (0, 1)
        require(_are_equal(second, next(iter(loader))), "an epoch that is resumed at its second step starts with another batch")


def _augments_each_apart(data: Any) -> None:
    if not hasattr(data, "augmentation") or not data.augmentation.transforms:
        return
    batch = next(iter(data.train_dataloader()))
    n = len(batch["images"])
    same = {"images": batch["images"][:1].expand(n, -1, -1, -1).contiguous(), "labels": batch["labels"], "seed": batch["seed"]}
    images = data.on_after_batch_transfer(same, 0)["images"]
    different = len(torch.unique(images.flatten(1), dim=0))
    require(different > 1, f"{n} copies of an image all got the same augmentation")


def _evaluates_each_once(data: Any) -> None:
    firsts = []
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        batches = list(loader)
        counted, expected = sum(map(data.count_samples, batches)), data.split_size(name)
        require(counted == expected, f"{name} has {expected} samples, {counted} were counted")
        require(all(map(_are_equal, batches, loader)), f"{name} has other samples when it is iterated again")
        firsts.append(batches[0])
    require(not _are_equal(*firsts), "val and test have the same samples")


DATA_CHECKS = {
    "batches fit the spec": _batches_fit,
    "order follows from seed, epoch and step": _order_follows,
    "images of a batch are augmented independently": _augments_each_apart,
    "evaluation counts each sample once": _evaluates_each_once,
}
