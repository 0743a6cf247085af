"""Flickr8k and COCO read from tiny files in exactly the layouts that were published."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.core.errors import UserError
from zoo.datamodules.coco_captions import CocoCaptions
from zoo.datamodules.files import formats
from zoo.datamodules.files.named_images import find_images
from zoo.datamodules.flickr8k import Flickr8k
from zoo.spec import END, UNKNOWN
from zoo.training.data_record import DataRecord

# the first lines of the published files, with their spelling and their spaces
NAMES = ["1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg", "1002674143_1b742ab4b8.jpg", "1003163366_44323f5815.jpg"]
CAPTIONS = [
    ["A child in a pink dress is climbing up a set of stairs in an entry way .", "A girl going into a wooden building ."],
    ["A black dog and a spotted dog are fighting", "A black dog and a tri-colored dog playing with each other on the road ."],
    ["A little girl covered in paint sits in front of a painted rainbow with her hands in a bowl .", "A small girl in the grass"],
    ['A man lays on a bench while his dog sits by him , and "sleeps" .', "a man sleeping on a bench outside with a dog"],
]


def image(path: Path, level: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path)


@pytest.fixture
def images(workplace: Path) -> Path:
    for number, name in enumerate(NAMES):
        image(workplace / "Flicker8k_Dataset" / name, 60 * number)
    return workplace


def write_tokens(folder: Path) -> None:
    lines = [f"{name}#{i}\t{text}" for name, texts in zip(NAMES, CAPTIONS, strict=True) for i, text in enumerate(texts)]
    (folder / "Flickr8k_text").mkdir(exist_ok=True)
    (folder / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")


def write_captions(folder: Path) -> None:
    """As the copies on the web have it: quoted where there are quotes, and else not, whatever the commas."""
    lines = ["image,caption"]
    for name, texts in zip(NAMES, CAPTIONS, strict=True):
        lines += [f'{name},"{text.replace(chr(34), chr(34) * 2)}"' if '"' in text else f"{name},{text}" for text in texts]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")


def write_lists(folder: Path) -> None:
    lists = {"train": NAMES[:2], "dev": NAMES[2:3], "test": NAMES[3:]}
    for name, names in lists.items():
        (folder / f"Flickr_8k.{name}Images.txt").write_text("\n".join(names) + "\n")


def write_karpathy(folder: Path) -> None:
    splits = ["train", "restval", "val", "test"]
    content = {
        "dataset": "flickr8k",
        "images": [
            {
                "sentids": [2 * i, 2 * i + 1], "imgid": i, "split": split, "filename": name,
                "sentences": [
                    {"tokens": t.lower().split(), "raw": t, "imgid": i, "sentid": 2 * i + k} for k, t in enumerate(texts)
                ],
            }
            for i, (name, texts, split) in enumerate(zip(NAMES, CAPTIONS, splits, strict=True))
        ],
    }  # fmt: skip
    (folder / "dataset_flickr8k.json").write_text(json.dumps(content))


def opened(folder: Path, **options) -> Flickr8k:
    data = Flickr8k(2, 0, root=str(folder), min_count=1, **options)
    spec = data.spec
    data.prepare_data()
    data.setup()
    assert data.spec.vocabulary == spec.vocabulary, "the spec is known before anything is read"
    return data


@pytest.mark.parametrize("layouts", [(write_tokens, write_lists), (write_captions, write_lists), (write_karpathy,)])
def test_each_published_layout_says_the_same(images: Path, layouts: tuple) -> None:
    for write in layouts:
        write(images)
    data = opened(images)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert data.spec.image.shape == (3, 12, 10)
    told = data.references(data.splits["train"].columns["image_id"])
    assert told[0][1] == ["a", "girl", "going", "into", "a", "wooden", "building"]
    assert told[1][1][4:7] == ["a", "tri-colored", "dog"]
    assert data.references(data.splits["test"].columns["image_id"])[0][0][-4:] == ["by", "him", "and", "sleeps"]
    assert data.spec.length == 20, "the longest caption has 19 words, and then it ends"
    for name, levels in (("train", [0, 60]), ("val", [120]), ("test", [180])):
        pixels = data.splits[name].images.pixels.float().mean((1, 2, 3))
        assert pixels.tolist() == pytest.approx(levels, abs=2), "each picture has its own captions"


def test_the_vocabulary_is_that_of_the_training_captions_without_rare_words(images: Path) -> None:
    write_tokens(images)
    write_lists(images)
    data = Flickr8k(2, 0, root=str(images), min_count=2)
    assert data.spec.vocabulary[4:] == ("a", "dog", "and", "black", "in")
    data.setup()
    labels = data.splits["test"].labels
    assert data.spec.decode(labels[0, 1].tolist())[:3] == ["a", "<unknown>", "<unknown>"]
    assert (labels == UNKNOWN).any()
    assert "bench" in data.references(data.splits["test"].columns["image_id"])[0][1], "judged by the words of the caption itself"


def test_without_lists_a_part_is_for_testing_whatever_the_seed(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.datamodules.flickr8k.TEST_SHARE", 0.815)
    write_tokens(images)
    tests = []
    for seed in (0, 1):
        data = Flickr8k(2, seed, root=str(images), min_count=1, validation=0.85)
        data.setup()
        assert sum(map(len, data.splits.values())) == 4 and all(map(len, data.splits.values()))
        tests.append(data.references(data.splits["test"].columns["image_id"]))
    assert tests[0] == tests[1]


def test_what_is_wanting_is_one_warning(images: Path, capsys: pytest.CaptureFixture) -> None:
    write_tokens(images)
    write_lists(images)
    image(images / "Flicker8k_Dataset" / "nobody.jpg", 9)
    (images / "Flickr8k_text" / "Flickr8k.token.txt").open("a").write("2258277193_586949ec62.jpg.1#0\tsome people\n")
    with (images / "Flickr_8k.trainImages.txt").open("a") as lists:
        lists.write("never_seen.jpg\n")
    opened(images)
    warnings = capsys.readouterr().err.strip().splitlines()
    assert len(warnings) == 1
    assert "1 images without a caption (nobody.jpg)" in warnings[0]
    assert "2 captioned names without an image (2258277193_586949ec62.jpg.1, never_seen.jpg)" in warnings[0]


def test_two_images_of_one_name_are_told_apart_by_their_folders_or_left_out(images: Path, capsys: pytest.CaptureFixture) -> None:
    for number, name in enumerate(("train/1.jpg", "test/1.jpg", "a/2.jpg", "b/2.jpg", "c/3.jpg", "d/3.jpg", "val/4.jpg")):
        image(images / "own" / name, 9 if name.endswith("3.jpg") else 30 * number)
    lists = {"train": ["train/1.jpg", "3.jpg", "4.jpg"], "dev": ["2.jpg", NAMES[0]], "test": ["test/1.jpg", "4.jpg", "x/3.jpg"]}
    for name, listed in lists.items():
        (images / f"Flickr_8k.{name}Images.txt").write_text("\n".join(listed))
    captions = {"train/1.jpg": "a train", "test/1.jpg": "a test", "2.jpg": "which", "3.jpg": "equal files", "val/4.jpg": "both",
                f"Images/{NAMES[0]}": "in a folder of another name"}  # fmt: skip
    (images / "captions.txt").write_text("image,caption\n" + "\n".join(map(",".join, captions.items())))
    (images / "Flickr_8k.devImages.txt").write_text(f"2.jpg\nImages/{NAMES[0]}")
    data = opened(images)
    words = {
        name: [sentence for image in data.references(split.columns["image_id"]) for sentence in image]
        for name, split in data.splits.items()
    }
    assert words == {
        "train": [["a", "train"], ["equal", "files"]],
        "val": [["in", "a", "folder", "of", "another", "name"]],
        "test": [["a", "test"]],
    }
    assert data.splits["train"].images.pixels[0].float().mean() == pytest.approx(0, abs=2)
    assert data.splits["test"].images.pixels[0].float().mean() == pytest.approx(30, abs=2)
    warning = capsys.readouterr().err
    assert "1 captioned names of several images (2.jpg)" in warning and "1 images in several splits (4.jpg)" in warning


def test_karpathys_images_of_one_name_are_told_apart_by_their_folders(images: Path) -> None:
    wordless = [{"tokens": []}, {"raw": None}]
    content = {
        "images": [
            {"filename": "1.jpg", "filepath": split, "split": split, "sentences": [{"tokens": [None, split, 5]}, *wordless]}
            for split in ("train", "val", "test")
        ]
    }
    for number, split in enumerate(("train", "val", "test")):
        image(images / split / "1.jpg", 60 * number)
    (images / "dataset_own.json").write_text(json.dumps(content))
    data = opened(images)
    for number, split in enumerate(("train", "val", "test")):
        assert data.references(data.splits[split].columns["image_id"]) == [[[split]]]
        assert data.splits[split].images.pixels.float().mean() == pytest.approx(60 * number, abs=2)


def test_an_image_that_cannot_be_read_is_left_out_with_its_captions(images: Path, capsys: pytest.CaptureFixture) -> None:
    write_tokens(images)
    write_lists(images)
    (images / "Flicker8k_Dataset" / NAMES[0]).write_bytes(b"no picture")
    data = opened(images)
    told = capsys.readouterr().err
    assert told.count("1 of 2 images cannot be read and are skipped: ") == 1 and "1000268201_693b08cb0e.jpg" in told
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [1, 1, 1]
    assert data.references(data.splits["train"].columns["image_id"])[0][0][:3] == ["a", "black", "dog"]
    assert float(data.splits["train"].images.pixels.float().mean()) == pytest.approx(60, abs=2)


def test_images_that_do_not_fit_in_memory_are_read_when_they_are_needed(images: Path) -> None:
    write_tokens(images)
    write_lists(images)
    (images / "Flicker8k_Dataset" / NAMES[0]).write_bytes(b"no picture")
    data = opened(images, memory_gb=1e-9, size=8)
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (2, 3, 8, 8)
    assert float(batch["images"].float().mean()) == pytest.approx(60, abs=2)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("dataset_flickr8k.json", "{", "is not valid JSON"),
        ("dataset_flickr8k.json", '{"pictures": []}', "has no 'images'"),
        ("dataset_flickr8k.json", "[1]", "is not laid out as published"),
        ("dataset_flickr8k.json", '{"images": [{"filename": "a.jpg", "split": "dev", "sentences": []}]}', "has no 'dev'"),
        ("captions.txt", "name;text\n", "first line must be image,caption"),
        ("captions.txt", "image,caption\n1000268201_693b08cb0e.jpg\n", "line 2 has no caption"),
        ("Flickr8k.token.txt", "1000268201_693b08cb0e.jpg#0 a girl\n", "line 1 has no tab"),
        ("notes.txt", "", "holds no captions.txt"),
        ("captions.txt", "image,caption\nother.jpg,a girl\n", "no image below it"),
        ("captions.txt", f"image,caption\n{NAMES[0]},a girl\n", "none of 1 images is held out for testing"),
        (
            "dataset_flickr8k.json",
            f'{{"images": [{{"filename": "{NAMES[0]}", "split": "train", "sentences": [{{"raw": "."}}]}}]}}',
            "no image of train has a caption with words",
        ),
        ("dataset_flickr8k.json", '{"images": [{"filename": null, "split": "val", "sentences": []}]}', "None is no text"),
    ],
)
def test_broken_files_are_one_line(images: Path, file: str, content: str, complaint: str) -> None:
    (images / file).write_text(content)
    with pytest.raises(UserError, match=complaint) as raised:
        _ = Flickr8k(2, 0, root=str(images)).spec
    assert "\n" not in str(raised.value)


def test_a_root_that_is_not_there_and_lists_that_are_incomplete_are_one_line(images: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        _ = Flickr8k(2, 0, root=str(images / "elsewhere")).spec
    write_tokens(images)
    (images / "Flickr_8k.trainImages.txt").write_text(NAMES[0])
    with pytest.raises(UserError, match="no Flickr_8k.testImages.txt"):
        _ = Flickr8k(2, 0, root=str(images)).spec


@pytest.fixture
def coco(workplace: Path) -> Path:
    ids = {"train": [(391895, 0), (522418, 1)], "val": [(203564, 2), (179765, 3)]}
    for split, numbered in ids.items():
        content = {
            "info": {"year": 2017}, "licenses": [],
            "images": [{"license": 3, "file_name": f"{i:012}.jpg", "height": 12, "width": 10, "id": i} for i, _ in numbered],
            "annotations": [
                {"image_id": i, "id": 10 * k + n, "caption": CAPTIONS[k][n]} for n in range(2) for i, k in numbered
            ],
        }  # fmt: skip
        (workplace / "annotations").mkdir(exist_ok=True)
        (workplace / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(content))
        for number, k in numbered:
            image(workplace / f"{split}2017" / f"{number:012}.jpg", 60 * k, (20 + k, 30))
    return workplace


def test_coco_is_read_with_its_validation_images_for_testing_too(coco: Path) -> None:
    data = CocoCaptions(2, 0, root=str(coco), size=16, min_count=1)
    data.setup()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert data.references(data.splits["train"].columns["image_id"])[1][0][:3] == ["a", "black", "dog"]
    for name in ("val", "test"):
        pixels = data.splits[name].images.pixels.float().mean((1, 2, 3))
        assert pixels.tolist() == pytest.approx([120, 180], abs=2)


def test_coco_without_a_file_or_a_folder_is_one_line(coco: Path) -> None:
    for part in ("val2017", "annotations/captions_val2017.json"):
        (coco / part).rename(coco / "away")
        with pytest.raises(UserError, match=f"{part}: (there is )?no such"):
            _ = CocoCaptions(2, 0, root=str(coco)).spec
        (coco / "away").rename(coco / part)


def test_an_image_of_coco_without_a_caption_is_left_out(coco: Path, capsys: pytest.CaptureFixture) -> None:
    file = coco / "annotations" / "captions_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 391895]
    file.write_text(json.dumps(content))
    data = CocoCaptions(2, 0, root=str(coco), size=16)
    data.setup()
    assert len(data.splits["train"]) == 1
    assert "1 images without a caption (000000391895.jpg)" in capsys.readouterr().err


def test_ids_as_text_names_with_folders_and_captions_without_words_are_read_or_counted(
    coco: Path, capsys: pytest.CaptureFixture
) -> None:
    file = coco / "annotations" / "captions_train2017.json"
    content = json.loads(file.read_text())
    for entry in content["images"]:
        entry["file_name"] = f"train2017/{entry['file_name']}"
    ids = (str, float, "00{}".format, int)
    for annotation, caption, written in zip(content["annotations"], (None, "  ", 7, "a girl"), ids, strict=True):
        annotation.update(caption=caption, image_id=written(annotation["image_id"]))
    content["images"].append({"id": "5", "file_name": "../val2017/000000203564.jpg"})
    file.write_text(json.dumps(content))
    data = CocoCaptions(2, 0, root=str(coco), size=16, min_count=1)
    data.setup()
    assert data.references(data.splits["train"].columns["image_id"]) == [[["a", "girl"]]]
    assert data.splits["train"].images.pixels.float().mean() == pytest.approx(60, abs=2)
    warning = capsys.readouterr().err
    assert "1 images without a caption (000000391895.jpg)" in warning and "3 captions without words" in warning
    assert "1 captioned names without an image (../val2017/000000203564.jpg)" in warning
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no image of train has a caption with words: skipped .* and 3 captions without words"):
        _ = CocoCaptions(2, 0, root=str(coco)).spec


def test_training_captions_are_cut_on_request_without_an_end_and_others_are_not(images: Path) -> None:
    write_tokens(images)
    write_lists(images)
    data = opened(images, max_length=5)
    labels = data.splits["train"].labels
    assert data.spec.decode(labels[0, 0].tolist()) == ["a", "child", "in", "a", "pink"]
    assert not (labels == END).any(), "all of them have more words"
    assert (data.splits["test"].labels == END).sum() == 2
    batch = data.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch["labels"].shape == (2, 2, 6)
    assert len(data.references(data.splits["train"].columns["image_id"])[0][0]) == 17


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_form_of_unicode_is_the_same_one(images: Path, written: str, stored: str) -> None:
    names = [f"crème {number} brûlée.jpg" for number in range(40)]
    for number, name in enumerate(names):
        image(images / "Flicker8k_Dataset" / unicodedata.normalize(stored, name), number)
    lines = [f"{unicodedata.normalize(written, name)},a dish number {number}" for number, name in enumerate(names)]
    (images / "captions.txt").write_text("\n".join(["image,caption", *lines]) + "\n")
    data = opened(images, validation=0.2)
    found = {Path(file).name: split for name, split in data.splits.items() for file in split.files}
    assert found.keys() == {unicodedata.normalize(stored, name) for name in names}
    again = {file: name for name in ("train", "val", "test") for file, *_ in data.files()[name]}
    assert again.keys() == {unicodedata.normalize("NFC", f"Flicker8k_Dataset/{name}") for name in names}


def test_an_exact_name_comes_before_one_in_another_form(images: Path) -> None:
    forms = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    for number, name in enumerate(forms):
        image(images / name, 90 * number)
    found = find_images(images, forms)
    assert found.paths == {name: str(images / name) for name in forms} and not found.ambiguous


def test_a_named_file_is_an_image_whatever_its_ending(images: Path) -> None:
    image(images / "a.png", 20)
    (images / "a.png").rename(images / "a.dat")
    (images / "b.dat").write_bytes(b"")
    found = find_images(images, ["a.dat"])
    assert found.paths == {"a.dat": str(images / "a.dat")} and len(found.unnamed) == len(NAMES)


def test_a_named_image_of_a_format_that_is_not_installed_is_skipped_with_what_reads_it(images: Path, capsys, monkeypatch) -> None:
    write_captions(images)
    write_lists(images)
    for path in (images / "captions.txt", images / "Flickr_8k.trainImages.txt"):
        path.write_text(path.read_text().replace(NAMES[0], "photo.heic"))
    (images / "Flicker8k_Dataset" / NAMES[0]).rename(images / "photo.heic")
    (images / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr(formats, "READABLE", ("JPEG",))
    opened(images)
    warning = "1 of 2 images cannot be read and are skipped: photo.heic; HEIF images need pip install 'bestiary[heic]'\n"
    assert capsys.readouterr().err.endswith(warning)


def test_a_folder_whose_name_is_not_utf8_is_read(images: Path) -> None:
    write_captions(images)
    write_lists(images)
    os.rename(images / "Flicker8k_Dataset", os.fsencode(images) + b"/caf\xe9")
    data = opened(images)
    names = {name for split in ("train", "val", "test") for name, *_ in data.files()[split]}
    assert names == {f"caf\udce9/{name}" for name in NAMES}
    DataRecord.of(data).write(images)
    assert DataRecord.read(images).files.keys() == names
