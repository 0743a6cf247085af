"""Captions, questions and dialogues whose images do not fit in memory: decoded when a batch needs them, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.bases.image_text_files import ImageTextFiles
from zoo.datamodules.easy_vqa import EasyVQA
from zoo.datamodules.files import image_files
from zoo.datamodules.flickr8k import Flickr8k
from zoo.datamodules.visdial import VisDial
from zoo.spec import IGNORE
from zoo.training.data_record import SPLITS, DataRecord

TRAIN, HELD_OUT = range(8), {"val": range(8, 11), "test": range(11, 14)}
STEP = 16  # of gray, from each image to the next
BITS = ("down", "up")
TEXTS = [" ".join(BITS[index >> place & 1] for place in range(4)) for index in range(14)]  # each image's number, in words


def picture(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Image.fromarray(np.full((8, 8, 3), STEP * index, np.uint8)).save(path)


def captions(root: Path, **options: Any) -> ImageTextFiles:
    for index in range(14):
        picture(root / "images" / f"{index}.png", index)
    (root / "captions.txt").write_text("image,caption\n" + "".join(f"{i}.png,{TEXTS[i]}\n" for i in range(14)))
    for name, part in {"train": TRAIN, "dev": HELD_OUT["val"], "test": HELD_OUT["test"]}.items():
        (root / f"Flickr_8k.{name}Images.txt").write_text("".join(f"{index}.png\n" for index in part))
    return Flickr8k(4, 0, str(root), size=8, min_count=1, **options)


def questions(root: Path, **options: Any) -> ImageTextFiles:
    """Two samples of each image."""
    for name, part in {"train": range(11), "test": HELD_OUT["test"]}.items():
        for index in part:
            picture(root / name / "images" / f"{index}.png", index)
        (root / name / "questions.json").write_text(
            json.dumps([[TEXTS[index], TEXTS[index], index] for index in part for _ in range(2)])
        )
    (root / "answers.txt").write_text("\n".join(TEXTS))
    return EasyVQA(4, 0, str(root), size=8, validation=0.3, questions_per_sample=1, **options)


def dialogues(root: Path, **options: Any) -> ImageTextFiles:
    for name, part in {"train": range(11), "val": HELD_OUT["test"]}.items():
        prefix = "COCO_train2014" if name == "train" else "VisualDialog_val2018"
        for index in part:
            picture(root / f"{prefix}_{index:012}.png", index)
        rounds = {index: [{"question": index, "answer": index, "answer_options": [index, (index + 1) % 14]}] for index in part}
        content = {
            "questions": TEXTS,
            "answers": TEXTS,
            "dialogs": [{"image_id": index, "caption": TEXTS[index], "dialog": rounds[index]} for index in part],
        }
        (root / f"visdial_1.0_{name}.json").write_text(json.dumps({"data": content}))
    return VisDial(4, 0, str(root), size=8, min_count=1, validation=0.3, **options)


KINDS = {"labels": captions, "questions": questions, "captions": dialogues}  # by the column whose word names the image
each_kind = pytest.mark.parametrize(("column", "build"), KINDS.items(), ids=["captions", "questions", "dialogues"])
Build = Callable[..., ImageTextFiles]


def ready(data: ImageTextFiles) -> ImageTextFiles:
    data.setup()
    return data


def batches(data: ImageTextFiles, split: str) -> list[dict[str, Tensor]]:
    return list(getattr(data, f"{split}_dataloader")())


def shown(data: ImageTextFiles, batch: dict[str, Tensor], column: str) -> tuple[list[int], list[int]]:
    """The numbers of the images of a batch by their pixels, and by their texts."""
    vocabulary = data.spec.vocabulary
    rows = [
        [BITS.index(vocabulary[word]) for word in row if vocabulary[word] in BITS]
        for row in batch[column].clamp(min=0).flatten(1)
    ]
    return (batch["images"][:, 0, 0, 0] // STEP).tolist(), [sum(bit << place for place, bit in enumerate(bits)) for bits in rows]


def image_files_of(data: ImageTextFiles, *indices: int) -> list[Path]:
    return [path for path in Path(data.root).rglob("*.png") if int(path.stem.split("_")[-1]) in indices]


def make_unreadable(data: ImageTextFiles, *indices: int) -> None:
    for path in image_files_of(data, *indices):
        path.write_bytes(b"no picture")


@each_kind
@pytest.mark.parametrize("keep", [True, False])
def test_batches_are_those_of_memory(workplace: Path, column: str, build: Build, keep: bool) -> None:
    memory, files = ready(build(workplace)), ready(build(workplace, memory_gb=0, keep=keep))
    assert isinstance(files.splits["train"].images, image_files.ImageFiles)
    assert memory.spec == files.spec
    for split in ("train", "val", "test"):
        for one, other in zip(batches(memory, split), batches(files, split), strict=True):
            assert one.keys() == other.keys() and all(
                torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
            )
            images, texts = shown(files, other, column)
            assert images == texts


@each_kind
def test_each_image_is_decoded_once_and_not_before_it_is_needed(
    workplace: Path, column: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = image_files.decode

    def counted(path: str, *arguments: Any) -> np.ndarray:
        decoded.append(int(Path(path).stem.split("_")[-1]))
        return decode(path, *arguments)

    monkeypatch.setattr(image_files, "decode", counted)
    monkeypatch.setattr("zoo.datamodules.files.decoded.decode", counted)
    data = ready(build(workplace, memory_gb=0))
    batches(data, "train")
    trained = sorted(decoded)  # statistics are those of the training images
    assert trained == sorted(set(trained)) and not set(trained) & set(HELD_OUT["test"])
    batches(data, "test")
    assert sorted(set(decoded) - set(trained)) == [*HELD_OUT["test"]] and len(decoded) == len(set(decoded))
    batches(data, "val")
    for again in (data, ready(build(workplace, memory_gb=0))):  # and the next run decodes none
        batches(again, "train"), batches(again, "test")
    assert sorted(decoded) == [*range(14)]


@each_kind
def test_the_next_image_with_its_text_takes_the_place_of_an_unreadable_one(
    workplace: Path, column: str, build: Build, capsys: pytest.CaptureFixture
) -> None:
    data = build(workplace, memory_gb=0)
    lost = {1, 2, 12}
    make_unreadable(data, *lost)
    ready(data)
    capsys.readouterr()
    rows = [shown(data, batch, column) for batch in batches(data, "train")]
    assert all(images == texts for images, texts in rows)
    drawn = {index for images, _ in rows for index in images}
    assert drawn and not drawn & lost
    pairs = set()
    for batch in batches(data, "test"):
        counted = (batch["labels"].flatten(1) != IGNORE).any(1).tolist()
        pairs |= {pair for pair, counts in zip(zip(*shown(data, batch, column), strict=True), counted, strict=True) if counts}
    assert sorted(pairs) == [(11, 11), (13, 13)]
    told = capsys.readouterr().err
    assert "1 of 3 images cannot be read: " in told or "1 of 6 images cannot be read: " in told  # of 6 samples
    assert "another with its text takes the place of each in training, and none in evaluation" in told
    again = ready(build(workplace, memory_gb=0))
    assert all(
        torch.equal(one["images"], other["images"])
        for one, other in zip(batches(data, "train"), batches(again, "train"), strict=True)
    )


@each_kind
def test_a_set_without_a_readable_image_is_one_line(workplace: Path, column: str, build: Build) -> None:
    data = build(workplace, memory_gb=0)
    make_unreadable(data, *range(14))
    with pytest.raises(UserError, match=r"cannot be read, and no other of the \d+ images can") as raised:
        data.setup()
    assert "\n" not in str(raised.value)


@each_kind
@pytest.mark.parametrize("memory", [2.0, 0])
def test_the_record_knows_the_text_of_each_image(workplace: Path, column: str, build: Build, memory: float) -> None:
    before = DataRecord.of(ready(build(workplace, memory_gb=memory)))
    again = DataRecord.of(ready(build(workplace, memory_gb=memory)))
    assert before.changes(again, SPLITS) == "" and not before.is_reordered(again)
    data = build(workplace, memory_gb=memory)
    (file,) = (
        path for name in ("captions.txt", "train/questions.json", "visdial_1.0_train.json") for path in workplace.glob(name)
    )
    text = file.read_text()
    places = [index for index in range(len(text)) if text.startswith(TEXTS[5], index)]
    file.write_text(text[: places[0]] + TEXTS[1] + text[places[0] + len(TEXTS[5]) :])
    changes = before.changes(DataRecord.of(ready(data)), SPLITS)
    assert changes.startswith("1 with other text or labels (") and "5.png" in changes


def test_captions_in_another_order_are_noticed(workplace: Path) -> None:
    before = DataRecord.of(ready(captions(workplace)))
    data = captions(workplace)
    names = workplace / "Flickr_8k.trainImages.txt"
    names.write_text("\n".join(reversed(names.read_text().split())))
    after = DataRecord.of(ready(data))
    assert before.is_reordered(after) and before.changes(after, SPLITS) == ""


@each_kind
def test_copies_in_several_splits_are_named_once_they_were_read(
    workplace: Path, column: str, build: Build, capsys: pytest.CaptureFixture
) -> None:
    data = build(workplace, memory_gb=0)
    (original,), (copy,) = image_files_of(data, 1), image_files_of(data, 12)
    copy.write_bytes(original.read_bytes())
    ready(data)
    data.splits["train"].digests.read()
    data.warn_of_repeated()
    assert "by their content" not in capsys.readouterr().err  # that of test images is not known yet
    batches(data, "test")
    data.warn_of_repeated(), data.warn_of_repeated()
    told = capsys.readouterr().err
    assert told.count("1 of 3 images of test, such as ") == told.count("are training images, too, by their content") == 1
    trained = set(data.splits["train"].content())
    data.exclude_from_test(trained)
    counted = sum((batch["labels"].flatten(1) != IGNORE).any(1).sum() for batch in batches(data, "test"))
    assert counted == len(data.splits["test"]) * 2 // 3 and data.excluded_in_test() == (1, 3)


@each_kind
def test_features_of_the_next_image_take_the_place_of_an_unreadable_one(workplace: Path, column: str, build: Build) -> None:
    data = build(workplace, memory_gb=0)
    make_unreadable(data, 1, 2, 12)
    for _ in range(2):  # the second finds them in the cache
        ready(data).cache_features(lambda images: images.float().mean((2, 3)), "mean")
        for split, expected in (("train", None), ("test", {11, 13})):
            seen = set()
            for batch in batches(data, split):
                batch["images"] = batch["images"][..., None, None].round().to(torch.uint8)
                counted = (batch["labels"].flatten(1) != IGNORE).any(1).tolist()
                pairs = zip(*shown(data, batch, column), strict=True)
                seen |= {pair for pair, counts in zip(pairs, counted, strict=True) if counts}
            assert all(image == text for image, text in seen) and not {1, 2, 12} & {image for image, _ in seen}
            assert expected is None or {image for image, _ in seen} == expected
        data = build(workplace, memory_gb=0)
