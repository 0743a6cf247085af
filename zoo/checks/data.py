"""What every data set keeps, by the kind of its spec: batches fit, follow from seed and position, and count each sample once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from zoo.checks.violation import require
from zoo.config.options import check_options
from zoo.registry.entry import Entry
from zoo.spec import END, IGNORE, UNKNOWN_ANSWER, ImageTextSpec, NavigationSpec, SequenceSpec, TextSpec


def checks_of_data(entry: Entry, settings: Sequence[dict[str, dict[str, Any]]] = ()) -> dict[str, Callable[[], None]]:
    """The checks of a data set, by what each proves; each raises ``Violation``.

    Raises:
        Exception: the data set cannot even be made.
    """
    options = {key: value for layer in settings for key, value in layer["data"].items()}
    data = _open(entry, options)
    checks = next((checks for kind, checks in CHECKS_OF_SPEC.items() if isinstance(data.spec, kind)), IMAGE_CHECKS)
    return {name: partial(check, data) for name, check in checks.items()}


def _open(entry: Entry, options: dict[str, Any]) -> Any:
    data = entry.load()(16, 0, **check_options(entry, {**entry.tiny, **options}))
    _ = data.spec  # known before anything is fetched
    data.prepare_data()
    data.setup()
    return data


def _batches_fit(data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = data.on_after_batch_transfer(next(iter(loader)), 0)
        images, labels = batch["images"], batch["labels"]
        require(tuple(images.shape[1:]) == spec.shape, f"images are {tuple(images.shape[1:])}, the spec says {spec.shape}")
        require(labels.min() >= 0 and labels.max() < len(spec.classes), "a label is outside the classes of the spec")
        require(images.min() >= 0 and images.max() <= 255, "pixels must be from 0 to 255")


def _seed_decides(data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    require(torch.equal(first["images"], second["images"]), "one seed gave two orders")
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    third = next(iter(loader))
    require(not torch.equal(first["images"], third["images"]), "two epochs have the same order")


def _augments_each_apart(data: Any) -> None:
    if not data.augmentation.transforms:
        return
    batch = next(iter(data.train_dataloader()))
    n = len(batch["images"])
    same = {"images": batch["images"][:1].expand(n, -1, -1, -1).contiguous(), "labels": batch["labels"], "seed": batch["seed"]}
    images = data.on_after_batch_transfer(same, 0)["images"]
    different = len(torch.unique(images.flatten(1), dim=0))
    require(different > 1, f"{n} copies of an image were all augmented alike")


def _evaluates_each_once(data: Any) -> None:
    for name in ("val", "test"):
        loader = data.val_dataloader() if name == "val" else data.test_dataloader()
        seen = sum(len(batch["labels"]) for batch in loader)
        require(seen == len(data.splits[name]), f"{name} has {len(data.splits[name])} images, {seen} were seen")


def _text_fits(data: Any) -> None:
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        tokens, targets = batch["tokens"], batch["targets"]
        require(tokens.shape == targets.shape, f"tokens are {tuple(tokens.shape)}, targets {tuple(targets.shape)}")
        require(tokens.min() >= 0 and tokens.max() < len(data.spec.vocabulary), "a token is outside the vocabulary of the spec")
        going_on = targets[:, :-1] == tokens[:, 1:]
        require((going_on | (targets[:, :-1] == IGNORE)).all(), "targets are not the text one character later")


def _seed_and_epoch_decide(data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    require(torch.equal(first["tokens"], second["tokens"]), "one seed gave two texts")
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    require(not torch.equal(first["tokens"], next(iter(loader))["tokens"]), "two epochs begin at the same places")


def _evaluates_each_character_once(data: Any) -> None:
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        seen = sum(int((batch["targets"] != IGNORE).sum()) for batch in loader)
        expected = len(data.splits[name]) - 1
        require(seen == expected, f"{name} has {expected} characters behind others, {seen} were targets")


def _sequences_fit(data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        inputs, targets = batch["inputs"], batch["targets"]
        expected = (len(inputs), spec.length, spec.features)
        require(inputs.shape == expected, f"inputs are {tuple(inputs.shape)}, the spec says {expected}")
        expected = expected[:2] if spec.symbols else expected[:1]
        require(targets.shape == expected, f"targets are {tuple(targets.shape)}, the spec says {expected}")
        if spec.symbols:
            require(targets.min() >= 0 and targets.max() < len(spec.symbols), "a target is none of the symbols of the spec")
            require((targets > 0).any(1).all(), "a sequence asks for nothing")


def _seed_and_position_decide(data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    require(torch.equal(first["inputs"], second["inputs"]), "one seed gave two batches")
    loader = data.train_dataloader()
    for position, what in (((0, 1), "two steps"), ((1, 0), "two epochs")):
        loader.position = lambda position=position: position
        require(not torch.equal(first["inputs"], next(iter(loader))["inputs"]), f"{what} have the same sequences")


def _evaluates_the_same_sequences(data: Any) -> None:
    splits = {}
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        first, second = (torch.cat([batch["inputs"][batch["counted"]] for batch in loader]) for _ in range(2))
        require(torch.equal(first, second), f"{name} has other sequences when it is read again")
        splits[name] = first
    require(not torch.equal(*splits.values()), "val and test have the same sequences")


def _words_fit(data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = data.on_after_batch_transfer(next(iter(loader)), 0)
        images = batch.pop("images")
        require(
            tuple(images.shape[1:]) == spec.image.shape, f"images are {tuple(images.shape[1:])}, the spec says {spec.image.shape}"
        )
        require(images.min() >= 0 and images.max() <= 255, "pixels must be from 0 to 255")
        missing = sorted(set(spec.columns) - set(batch))
        require(not missing, f"a batch lacks {', '.join(missing)}, which the spec names")
        for name, values in spec.columns.items():
            column = batch[name]
            require(len(column) == len(images), f"{name} has {len(column)} rows, there are {len(images)} images")
            there = column[(column != IGNORE) & (column != UNKNOWN_ANSWER)]
            require(len(there), f"{name} has nothing for any image of a batch")
            require(
                there.min() >= 0 and there.max() < values, f"a value of {name} is not from 0 to {values - 1}, as the spec says"
            )


def _worlds_fit(data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        views, moves, words = batch["views"], batch["moves"], batch["words"]
        poses = views.shape[1]
        shape = spec.image.shape
        require(tuple(views.shape[2:]) == shape, f"views are {tuple(views.shape[2:])}, the spec says {shape}")
        require(moves.shape[1:] == (poses, len(spec.actions)), f"moves are {tuple(moves.shape[1:])} for {poses} poses")
        require(moves.min() >= 0 and moves.max() < poses, "an action leads to a pose that is not there")
        require((moves[:, :, -1] == torch.arange(poses)).all(), f"{spec.actions[-1]!r} is to stop, and leads elsewhere")
        require(words.min() >= 0 and words.max() < len(spec.vocabulary), "a word is outside the vocabulary of the spec")
        require((words == END).sum(1).eq(1).all(), "an instruction does not end, or ends twice")


def _expert_arrives(data: Any) -> None:
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        row, pose = torch.arange(len(batch["start"])), batch["start"]
        left = batch["steps"][row, pose]
        require((left < data.spec.steps).all(), f"a goal is {int(left.max())} steps away, and {data.spec.steps} may be taken")
        for _ in range(int(left.max())):
            pose = batch["moves"][row, pose, batch["expert"][row, pose]]
            left = (left - 1).clamp(min=0)
            require(torch.equal(batch["steps"][row, pose], left), "an action of the expert does not bring the goal nearer")
        require((batch["expert"][row, pose] == len(data.spec.actions) - 1).all(), "the expert does not stop at the goal")


def _seed_decides_episodes(data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    require(torch.equal(first["start"], second["start"]), "one seed gave two orders")
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    require(not torch.equal(first["start"], next(iter(loader))["start"]), "two epochs have the same order")


def _evaluates_each_episode_once(data: Any) -> None:
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        seen = sum(int(batch["counted"].sum()) for batch in loader)
        require(seen == len(data.splits[name]), f"{name} has {len(data.splits[name])} episodes, {seen} were counted")


NAVIGATION_CHECKS = {
    "batches fit the spec": _worlds_fit,
    "the expert arrives by a shortest way": _expert_arrives,
    "order follows from seed and epoch": _seed_decides_episodes,
    "evaluation sees each episode once": _evaluates_each_episode_once,
}
TEXT_CHECKS = {
    "batches fit the spec": _text_fits,
    "text follows from seed and epoch": _seed_and_epoch_decide,
    "evaluation sees each character once": _evaluates_each_character_once,
}
IMAGE_CHECKS = {
    "batches fit the spec": _batches_fit,
    "order follows from seed and epoch": _seed_decides,
    "images of a batch are augmented apart": _augments_each_apart,
    "evaluation sees each image once": _evaluates_each_once,
}
IMAGE_TEXT_CHECKS = {**IMAGE_CHECKS, "batches fit the spec": _words_fit}
SEQUENCE_CHECKS = {
    "batches fit the spec": _sequences_fit,
    "sequences follow from seed, epoch and step": _seed_and_position_decide,
    "evaluation sees the same sequences each time": _evaluates_the_same_sequences,
}
CHECKS_OF_SPEC = {  # the first that the spec is one of
    TextSpec: TEXT_CHECKS,
    SequenceSpec: SEQUENCE_CHECKS,
    NavigationSpec: NAVIGATION_CHECKS,
    ImageTextSpec: IMAGE_TEXT_CHECKS,
}
