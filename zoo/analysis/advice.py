"""What to know about a folder of pictures before a network is fine-tuned on it, and how to begin.

It looks for what costs accuracy without a word: copies of a photograph on both sides of a split, one photograph in two classes,
classes of very different sizes, files that cannot be read.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

from zoo.core.errors import UserError, some

EXAMPLES = 3  # of many, so many are named
FEW, MANY = 50, 200  # training images a class
UNEQUAL = 3  # times the smallest class: from here on, accuracy hides what happens in it
BACKBONE = "efficientnet-lite0"  # whose published weights come as a Python package, so no download is needed


@dataclass(frozen=True)
class Copies:
    """Photographs that are there more than once, byte for byte.

    Attributes:
        kind: ``classes`` (under two classes: one of the labels is wrong), ``test`` (there and in another split), ``val`` (there
            and in training), or ``split`` (twice among the images of one class in one split).
        photographs: how many there are of this kind.
        images: how many images of the split are concerned, of all copies.
        examples: the copies of up to three of them.
    """

    kind: str
    photographs: int
    images: int
    examples: list[list[str]]


@dataclass(frozen=True)
class Sizes:
    """Width and height of the images that lie in files, and how many are enlarged to become ``scaled_to``."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    scaled_to: tuple[int, int]
    enlarged: int


@dataclass(frozen=True)
class Suggestion:
    """How to begin: the value of ``--freeze``, settings of the recipe, why, and the whole command."""

    freeze: str
    settings: dict[str, Any]
    reason: str
    command: str


@dataclass(frozen=True)
class Advice:
    """What was found in a data set.

    Attributes:
        data: its name.
        images: split -> class -> images.
        constant: the share of the test images that the answer "always the largest training class" gets right.
        unequal: images of the largest training class for one of the smallest.
        sizes: None where the images do not lie in files.
        unreadable: files that were left out.
        copies: each kind that there is.
        suggestion: how to begin.
    """

    data: str
    images: dict[str, dict[str, int]]
    constant: float
    unequal: float
    sizes: Sizes | None
    unreadable: list[str]
    copies: list[Copies]
    suggestion: Suggestion

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def warnings(self) -> list[str]:
        """What should be put right before training, a line each; nothing where all is well."""
        lines = [_told_of_copies(copies, self._count(copies.kind)) for copies in self.copies]
        if self.unreadable:
            lines.append(f"left out, since they cannot be read: {some(self.unreadable, EXAMPLES)}")
        if missing := [name for name, count in self.images["test"].items() if not count]:
            lines.append(f"no test image of {some(missing, EXAMPLES)}: nothing tells whether it is learned")
        if self.unequal >= UNEQUAL:
            small, large = _smallest_and_largest(self.images["train"])
            lines.append(
                f"{large[0]} has {self.unequal:.1f} times the training images of {small[0]}: accuracy says little about "
                f"{small[0]}, so look at each class (zoo picture confusion RUN)"
            )
        return lines

    def brief(self) -> list[str]:
        """The few lines that are worth reading before a training starts: faults, and a rate that guessing reaches."""
        faults = replace(self, unreadable=[]).warnings()  # what cannot be read was told when it was tried
        return [f"warning: {line}" for line in faults] + [_told_of_constant(self)]

    def _count(self, split: str) -> int:
        return sum(self.images.get(split, {}).values())


def advise(data: Any, name: str, settings: Sequence[str] = ()) -> Advice:
    """Look at data that is read and split.

    Args:
        data: a data module of classification, after ``setup``.
        name: its name.
        settings: what it was given, as in ``data.root=photos``, for the command that is suggested.

    Raises:
        UserError: it is not made of images with classes.
    """
    spec = data.spec
    if getattr(data, "task", "") != "classification" or spec.are_points:
        raise UserError(f"{name} is not images with classes, which advice is for: see `zoo data list --task classification`")
    listed = data.split_files() if hasattr(data, "split_files") else data.splits
    labels = {split: listed[split].labels.tolist() for split in ("train", "val", "test") if split in listed}
    images = {split: _by_class(found, spec.classes) for split, found in labels.items()}
    files = {split: getattr(listed[split].images, "paths", None) for split in labels}
    in_files = all(paths is not None for paths in files.values())
    sizes = _sizes([path for paths in files.values() for path in paths], (spec.width, spec.height)) if in_files else None
    if in_files:
        root = f"{data.root}{os.sep}"
        copies = find_copies(_copies_of_files(files), labels, lambda split, i: _named(files[split][i].removeprefix(root), split))
    else:
        copies = find_copies(_copies_of_pixels(listed), labels, lambda split, i: f"{split} {i}")
    small, large = _smallest_and_largest(images["train"])
    return Advice(
        name,
        images,
        images["test"][large[0]] / max(1, len(labels["test"])),
        large[1] / max(1, small[1]),
        sizes,
        [str(path) for path in getattr(data, "unreadable", ())],
        copies,
        suggest(images["train"], name, settings),
    )


def _by_class(labels: list[int], classes: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(labels)
    return {name: counts[label] for label, name in enumerate(classes)}


def _smallest_and_largest(by_class: dict[str, int]) -> tuple[tuple[str, int], tuple[str, int]]:
    return min(by_class.items(), key=lambda item: item[1]), max(by_class.items(), key=lambda item: item[1])


# ---------------------------------------------------------------------------------------------- copies

Place = tuple[str, int]  # a split and a position in it


def find_copies(groups: Iterable[list[Place]], labels: dict[str, list[int]], told: Callable[[str, int], str]) -> list[Copies]:
    """Sort groups of equal images by the harm they do; one group may do several.

    Args:
        groups: the places of equal images, at least two each.
        labels: split -> class of each image.
        told: what to call the image at a place.
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
    return [_copies(kind, found[kind], told) for kind in ("classes", "test", "val", "split") if kind in found]


def _named(path: str, split: str) -> str:
    """A path below the root, with its split where that does not stand in it (``val`` may be ``validation`` there)."""
    first = Path(path).parts[0]
    return path if first == split or (split == "val" and first in ("valid", "validation")) else f"{path} ({split})"


def _copies(kind: str, groups: list[list[Place]], told: Callable[[str, int], str]) -> Copies:
    images = sum(1 for group in groups for split, _ in group if kind not in ("test", "val") or split == kind)
    examples = sorted(sorted(told(*place) for place in group) for group in groups)[:EXAMPLES]
    return Copies(kind, len(groups), images, examples)


def _copies_of_files(files: dict[str, Sequence[str]]) -> list[list[Place]]:
    """The places of files with equal content. Only files of equal size are read."""
    by_size: dict[int, list[Place]] = defaultdict(list)
    for split, paths in files.items():
        for index, path in enumerate(paths):
            by_size[os.stat(path).st_size].append((split, index))
    suspects = [place for places in by_size.values() if len(places) > 1 for place in places]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda place: _digest(Path(files[place[0]][place[1]]).read_bytes()), suspects)
        return _equal(zip(digests, suspects, strict=True))


def _copies_of_pixels(splits: dict[str, Any]) -> list[list[Place]]:
    """The places of equal images in splits that hold or read pixels."""
    import torch

    found = []
    for split, held in splits.items():
        for order in torch.arange(len(held)).split(1024):
            for index, pixels in zip(order.tolist(), next(held.images.batches(iter([order]))).cpu().numpy(), strict=True):
                found.append((_digest(pixels.tobytes()), (split, index)))
    return _equal(found)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _equal(found: Iterable[tuple[bytes, Place]]) -> list[list[Place]]:
    by_digest: dict[bytes, list[Place]] = defaultdict(list)
    for digest, place in found:
        by_digest[digest].append(place)
    return [places for places in by_digest.values() if len(places) > 1]


# ---------------------------------------------------------------------------------------------- sizes


def _sizes(paths: list[str], scaled_to: tuple[int, int]) -> Sizes:
    from zoo.datamodules.files.images import upright_size

    with ThreadPoolExecutor() as pool:
        shapes = [size[::-1] for size in pool.map(upright_size, paths, chunksize=64) if size]
    shapes.sort(key=lambda size: (size[0] * size[1], size))
    enlarged = sum(width < scaled_to[0] or height < scaled_to[1] for width, height in shapes)
    return Sizes(shapes[0], shapes[(len(shapes) - 1) // 2], shapes[-1], scaled_to, enlarged)


# ---------------------------------------------------------------------------------------------- the suggestion


def suggest(train: dict[str, int], name: str, settings: Sequence[str]) -> Suggestion:
    """How to fine-tune with so many training images in each class."""
    usual = int(median(train.values()))
    told = f"{_many(len(train), 'class', 'classes')} with {_spread(train.values())} training images each"
    if usual < FEW:
        freeze, chosen = "backbone", {"lr": 3e-3}
        reason = f"{told}, too few to teach a whole network without learning them by heart: only a new head, on kept features"
    elif usual < MANY:
        freeze, chosen = "epochs:3", {"lr": 1e-3, "layer_decay": 0.75}
        reason = f"{told}, enough to adapt all layers if that begins gently: the head for three epochs, then all"
    else:
        freeze, chosen = "none", {"lr": 1e-3, "layer_decay": 0.75}
        reason = f"{told}, enough to adapt all layers from the start, early ones slowest"
    settings = [*settings, *(f"recipe.{key}={value:g}" for key, value in chosen.items())]
    words = [BACKBONE, "--data", name, "--freeze", freeze, *(word for text in settings for word in ("--set", text))]
    return Suggestion(freeze, chosen, reason, f"zoo finetune {shlex.join(words)}")


def _spread(counts: Collection[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,} (median {int(median(counts)):,})"


# ---------------------------------------------------------------------------------------------- in words


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _told_of_copies(copies: Copies, in_split: int) -> str:
    photographs = _many(copies.photographs, "photograph")
    are = "is" if copies.photographs == 1 else "are"
    shown = "; ".join(" = ".join(example) for example in copies.examples)
    more = f"; and {copies.photographs - len(copies.examples):,} more" if copies.photographs > len(copies.examples) else ""
    match copies.kind:
        case "classes":
            told = f"{photographs} {are} in two classes, so one of the labels is wrong: remove one copy"
        case "test" | "val":
            named = {"test": "test", "val": "validation"}[copies.kind]
            told = (
                f"{photographs} {are} among the {named} images and elsewhere: {named} accuracy can be too high by up to "
                f"{copies.images / max(1, in_split):.1%}; remove one copy"
            )
        case _:
            told = f"{photographs} {are} there more than once in the same class and split, and counted so often"
    return f"{told}: {shown}{more}"


def _told_of_constant(advice: Advice) -> str:
    _, large = _smallest_and_largest(advice.images["train"])
    return f"answering {large[0]!r} to everything gets {advice.constant:.1%} of the test images right: that is the mark to beat"


def report(advice: Advice) -> list[str]:
    """All of it as text, the command not included."""
    splits = list(advice.images)
    total = sum(map(advice._count, splits))
    shares = ", ".join(f"{advice._count(split):,} {split}" for split in splits)
    small, large = _smallest_and_largest(advice.images["train"])
    between = f"{large[0]} is the largest in training with {large[1]:,}, {small[0]} the smallest with {small[1]:,}"
    equal = f"all have {small[1]:,} training images"
    lines = [
        f"images   {total:,} in {_many(len(advice.images['train']), 'class', 'classes')}: {shares}",
        f"classes  {equal if small[1] == large[1] else f'{between} ({advice.unequal:.1f} : 1)'}",
        f"guessing {_told_of_constant(advice)}",
    ]
    if sizes := advice.sizes:
        smallest, middle, largest, scaled = (
            f"{w}x{h}" for w, h in (sizes.smallest, sizes.median, sizes.largest, sizes.scaled_to)
        )
        enlarged = f"; {sizes.enlarged:,} are smaller and enlarged, which adds no detail" if sizes.enlarged else ""
        found = f"all {smallest}" if smallest == largest else f"{smallest} to {largest}, median {middle}"
        taken = "taken as they are" if found == f"all {scaled}" else f"scaled to {scaled}"
        lines.append(f"sizes    {found}; {taken}{enlarged}. zoo finetune scales them to the size that its weights know")
    lines += [f"fault    {line}" for line in advice.warnings()] or ["faults   none: no copies, no unreadable files"]
    return [*lines, f"advice   {advice.suggestion.reason}"]
