"""Checks of an image data set before fine-tuning, and a suggested command.

They look for problems that cost accuracy silently: images that leak from one split into another, one image in two classes, class
imbalance, unreadable files.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

from zoo.core.counts import out_of
from zoo.core.errors import UserError, some

EXAMPLES = 3  # listed in messages
SAMPLED = 2000  # files of a large set that is not to be read, whose sizes are looked at
FEW, MANY = 50, 200  # training images per class
IMBALANCED = 3  # from this ratio of the largest to the smallest class on, accuracy says little about the smallest
BALANCING = {"class_weights": "balanced", "monitor": "balanced_accuracy"}  # recipe for such classes
BACKBONE = "efficientnet-lite0"  # its pretrained weights come as a Python package, without a download


@dataclass(frozen=True)
class Duplicates:
    """Images that occur more than once, byte for byte.

    Attributes:
        kind: ``classes`` (in two classes, so one of the labels is wrong), ``test`` (in the test split and another one), ``val``
            (in the validation and training splits), or ``split`` (twice in one class of one split).
        distinct: number of distinct images.
        images: number of their copies, for ``test`` and ``val`` in that split.
        examples: the copies of up to three of them.
    """

    kind: str
    distinct: int
    images: int
    examples: list[list[str]]


@dataclass(frozen=True)
class Sizes:
    """Width and height of image files, and how many are smaller than ``scaled_to``."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    scaled_to: tuple[int, int]
    enlarged: int


@dataclass(frozen=True)
class Suggestion:
    """Suggested fine-tuning: the value of ``--freeze``, recipe settings, the reason, and the complete command."""

    freeze: str
    settings: dict[str, Any]
    reason: str
    command: str


@dataclass(frozen=True)
class Advice:
    """Properties of a data set.

    Attributes:
        data: name.
        images: split -> class -> number of images.
        majority_baseline: test accuracy of always predicting the largest training class.
        imbalance: ratio of the largest to the smallest training class.
        sizes: None if the images are not files.
        unreadable: files that were skipped, or beyond memory, where none is decoded for this, those without a readable header.
        notes: folders that are not used and classes that a split lacks, one line each.
        duplicates: one entry per kind that occurs.
        is_decoded: whether all images were decoded, as those in memory are.
        is_balanced: whether training makes up for class imbalance.
    """

    data: str
    images: dict[str, dict[str, int]]
    majority_baseline: float
    imbalance: float
    sizes: Sizes | None
    unreadable: list[str]
    notes: list[str]
    duplicates: list[Duplicates]
    suggestion: Suggestion
    is_decoded: bool = True
    is_balanced: bool = False

    def warnings(self) -> list[str]:
        """Problems to fix before training, one line each."""
        lines = [_describe_duplicates(each, self._count(each.kind)) for each in self.duplicates]
        if self.unreadable:
            what = "unreadable and skipped" if self.is_decoded else f"{len(self.unreadable):,} unreadable"
            lines.append(f"{what}: {some(self.unreadable, EXAMPLES)}")
        lines += self.notes
        if self.imbalance >= IMBALANCED:
            lines.append(self._describe_imbalance())
        return lines

    def _describe_imbalance(self) -> str:
        small, large = _smallest_and_largest(self.images["train"])
        found = (
            f"{large[0]} has {self.imbalance:.1f} times the training images of {small[0]}: check balanced accuracy and the "
            "metrics of each class (zoo test RUN), since accuracy hides the small ones"
        )
        if self.is_balanced:
            return found
        counts = [count for count in self.images["train"].values() if count]
        each = sum(counts) / len(counts)
        return (
            f"{found}; recipe.class_weights=balanced weighs images of the largest class {each / max(counts):.2g} and of the "
            f"smallest {each / min(counts):.2g} in the loss, or data.sampling=balanced draws {each:.0f} of each class an epoch"
        )

    def brief(self) -> list[str]:
        """The warnings and the majority-class baseline, as ``zoo finetune`` prints them."""
        faults = replace(self, unreadable=[], notes=[]).warnings()  # these were reported when they were read
        return [f"warning: {line}" for line in faults] + [_describe_baseline(self)]

    def _count(self, split: str) -> int:
        return sum(self.images.get(split, {}).values())


def advise(data: Any, name: str, settings: Sequence[str] = (), read: bool = True, weighs_classes: bool = False) -> Advice:
    """Check a data set.

    Args:
        data: data module for image classification, after ``setup``.
        name: its name.
        settings: its options, as in ``data.root=photos``, for the suggested command.
        read: read all files of data beyond memory; otherwise it is judged by what was read and by the sizes of some files.
        weighs_classes: whether the training to come has class weights.

    Raises:
        UserError: it is not for image classification.
    """
    from zoo.datamodules.files.image_files import ImageFiles

    spec = data.spec
    if data.task != "classification" or spec.are_points:
        raise UserError(f"{name} is not for image classification: see `zoo data list --task classification`")
    listed = data.splits
    labels = {split: listed[split].labels.tolist() for split in ("train", "val", "test") if split in listed}
    images = {split: _by_class(found, spec.classes) for split, found in labels.items()}
    files = {split: listed[split].files for split in labels}
    in_files = all(listed[split].digests is not None for split in labels)
    paths = [path for of_split in files.values() for path in of_split] if in_files else []
    if not read and any(isinstance(held.images, ImageFiles) for held in listed.values()):
        paths = [paths[place * len(paths) // SAMPLED] for place in range(SAMPLED)] if len(paths) > SAMPLED else paths
    shapes = _shapes(paths)
    unreadable = [str(path) for path in getattr(data, "unreadable", ())]
    unreadable += [path for path, shape in zip(paths, shapes, strict=True) if not shape]
    known = [shape for shape in shapes if shape]
    if in_files:
        root = f"{data.root}{os.sep}"
        duplicates = find_duplicates(
            _equal_files(listed, read), labels, lambda split, i: _named(files[split][i].removeprefix(root), split)
        )
    else:
        duplicates = find_duplicates(_equal_pixels(listed), labels, lambda split, i: f"{split} {i}")
    small, large = _smallest_and_largest(images["train"])
    is_balanced = weighs_classes or getattr(data, "sampling", "natural") == "balanced"
    return Advice(
        name,
        images,
        images["test"][large[0]] / max(1, len(labels["test"])),
        large[1] / max(1, small[1]),
        _sizes(known, (spec.width, spec.height)) if known else None,
        unreadable,
        list(getattr(data, "notes", ())),
        duplicates,
        suggest(images["train"], name, settings, is_balanced),
        not any(isinstance(listed[split].images, ImageFiles) for split in labels),
        is_balanced,
    )


def _by_class(labels: list[int], classes: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(labels)
    return {name: counts[label] for label, name in enumerate(classes)}


def _smallest_and_largest(by_class: dict[str, int]) -> tuple[tuple[str, int], tuple[str, int]]:
    return min(by_class.items(), key=lambda item: item[1]), max(by_class.items(), key=lambda item: item[1])


# ---------------------------------------------------------------------------------------------- duplicates

Place = tuple[str, int]  # split and index


def find_duplicates(
    groups: Iterable[list[Place]], labels: dict[str, list[int]], describe: Callable[[str, int], str]
) -> list[Duplicates]:
    """Classify groups of equal images; a group may be of several kinds.

    Args:
        groups: the places of equal images, at least two each.
        labels: split -> class of each image.
        describe: maps a place to the name of its image.
    """
    found: dict[str, list[list[Place]]] = defaultdict(list)
    for group in groups:
        if len({labels[split][index] for split, index in group}) > 1:
            found["classes"].append(group)
        splits = {split for split, _ in group}
        if "test" in splits and len(splits) > 1:
            found["test"].append(group)
        if {"val", "train"} <= splits:
            found["val"].append(group)
        if len({(split, labels[split][index]) for split, index in group}) < len(group):
            found["split"].append(group)
    return [_summarize(kind, found[kind], describe) for kind in ("classes", "test", "val", "split") if kind in found]


def _named(path: str, split: str) -> str:
    """A path below the root, with its split unless its first folder is named after the split."""
    from zoo.datamodules.files.image_tree import split_called

    first = Path(path).parts[0]
    return path if split_called(first) == split else f"{path} ({split})"


def _summarize(kind: str, groups: list[list[Place]], describe: Callable[[str, int], str]) -> Duplicates:
    images = sum(1 for group in groups for split, _ in group if kind not in ("test", "val") or split == kind)
    examples = sorted(sorted(describe(*place) for place in group) for group in groups)[:EXAMPLES]
    return Duplicates(kind, len(groups), images, examples)


def _equal_files(splits: dict[str, Any], read: bool) -> list[list[Place]]:
    """Places of files with equal content, as far as they were read."""
    found = ((split, enumerate(held.content(read=read))) for split, held in splits.items())
    return _equal((digest, (split, index)) for split, digests in found for index, digest in digests if digest)


def _equal_pixels(splits: dict[str, Any]) -> list[list[Place]]:
    """Places of images with equal pixels."""
    import torch

    found = []
    for split, held in splits.items():
        for order in torch.arange(len(held)).split(1024):
            for index, pixels in zip(order.tolist(), next(held.images.batches(iter([order]))).cpu().numpy(), strict=True):
                found.append((blake2b(pixels.tobytes(), digest_size=16).digest(), (split, index)))
    return _equal(found)


def _equal(found: Iterable[tuple[bytes, Place]]) -> list[list[Place]]:
    by_digest: dict[bytes, list[Place]] = defaultdict(list)
    for digest, place in found:
        by_digest[digest].append(place)
    return [places for places in by_digest.values() if len(places) > 1]


# ---------------------------------------------------------------------------------------------- sizes


def _shapes(paths: list[str]) -> list[tuple[int, int] | None]:
    """(height, width) of each file, from its header."""
    from zoo.datamodules.files.images import upright_size

    with ThreadPoolExecutor() as pool:
        return list(pool.map(upright_size, paths, chunksize=64))


def _sizes(found: list[tuple[int, int]], scaled_to: tuple[int, int]) -> Sizes:
    shapes = [shape[::-1] for shape in found]
    shapes.sort(key=lambda size: (size[0] * size[1], size))
    enlarged = sum(width < scaled_to[0] or height < scaled_to[1] for width, height in shapes)
    return Sizes(shapes[0], shapes[(len(shapes) - 1) // 2], shapes[-1], scaled_to, enlarged)


# ---------------------------------------------------------------------------------------------- the suggestion


def suggest(train: dict[str, int], name: str, settings: Sequence[str], is_balanced: bool = False) -> Suggestion:
    """Choose a fine-tuning regime by the median number of training images per class, and class weights by their ratio.

    Args:
        is_balanced: whether the settings make up for class imbalance.
    """
    chosen: dict[str, Any]
    usual = int(median(train.values()))
    counts = f"{_many(len(train), 'class', 'classes')} with {_spread(train.values())} training images each"
    if usual < FEW:
        freeze, chosen = "backbone", {"lr": 3e-3}
        reason = f"{counts}: a whole network would overfit, so train only a new head on frozen features"
    elif usual < MANY:
        freeze, chosen = "epochs:3", {"lr": 1e-3, "layer_decay": 0.75}
        reason = f"{counts}: enough to fine-tune all layers after three epochs of training the head alone"
    else:
        freeze, chosen = "none", {"lr": 1e-3, "layer_decay": 0.75}
        reason = f"{counts}: enough to fine-tune all layers from the start, early layers with lower learning rates"
    small, large = _smallest_and_largest(train)
    if large[1] >= IMBALANCED * max(1, small[1]) and not is_balanced:
        chosen |= BALANCING
        reason += f"; the loss weighs classes, since {large[0]} has {large[1] / max(1, small[1]):.1f} times as many as {small[0]}"
    settings = [*settings, *(f"recipe.{key}={value}" for key, value in chosen.items())]
    words = [BACKBONE, "--data", name, "--freeze", freeze, *(word for text in settings for word in ("--set", text))]
    return Suggestion(freeze, chosen, reason, f"zoo finetune {shlex.join(words)}")


def _spread(counts: Collection[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,} (median {int(median(counts)):,})"


# ---------------------------------------------------------------------------------------------- messages


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _describe_duplicates(duplicates: Duplicates, in_split: int) -> str:
    found, listed = _many(duplicates.distinct, "image"), "; ".join(" = ".join(example) for example in duplicates.examples)
    occur = "occurs" if duplicates.distinct == 1 else "occur"
    more = duplicates.distinct - len(duplicates.examples)
    match duplicates.kind:
        case "classes":
            text = f"{found} {occur} in two classes, so one of the labels is wrong: remove one copy"
        case "test" | "val":
            split = {"test": "test", "val": "validation"}[duplicates.kind]
            text = (
                f"{found} {occur} in the {split} split and in another: {split} accuracy may be too high by up to "
                f"{out_of(duplicates.images, in_split, 'images')}; remove one copy"
            )
        case _:
            text = f"{found} {occur} more than once in the same class and split"
    return f"{text}: {listed}{f'; and {more:,} more' if more else ''}"


def _describe_baseline(advice: Advice) -> str:
    _, (largest, _) = _smallest_and_largest(advice.images["train"])
    tested = advice.images["test"]
    return f"always predicting {largest!r} is right for {out_of(tested[largest], sum(tested.values()), 'test images')}"


def report(advice: Advice) -> list[str]:
    """Describe everything but the suggested command, a line each."""
    splits = {split: advice._count(split) for split in advice.images}
    shares = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    small, large = _smallest_and_largest(advice.images["train"])
    between = f"{large[0]} is the largest in training with {large[1]:,} images, {small[0]} the smallest with {small[1]:,}"
    equal = f"all have {small[1]:,} training images"
    lines = [
        f"images   {sum(splits.values()):,} in {_many(len(advice.images['train']), 'class', 'classes')}: {shares}",
        f"classes  {equal if small[1] == large[1] else f'{between} ({advice.imbalance:.1f} : 1)'}",
        f"baseline {_describe_baseline(advice)}",
    ]
    if sizes := advice.sizes:
        smallest, middle, largest, scaled = (
            f"{w}x{h}" for w, h in (sizes.smallest, sizes.median, sizes.largest, sizes.scaled_to)
        )
        enlarged = f"; {sizes.enlarged:,} are smaller and upscaled, which adds no detail" if sizes.enlarged else ""
        found = f"all {smallest}" if smallest == largest else f"{smallest} to {largest}, median {middle}"
        scaling = "not scaled" if found == f"all {scaled}" else f"scaled to {scaled}"
        lines.append(f"sizes    {found}; {scaling}{enlarged}. fine-tuning scales them to the input size of its weights")
    none = "no duplicates, no unreadable " + (
        "files" if advice.is_decoded else "headers; damage behind them is found in training"
    )
    lines += [f"problem  {line}" for line in advice.warnings()] or [f"problems none: {none}"]
    return [*lines, f"advice   {advice.suggestion.reason}"]
