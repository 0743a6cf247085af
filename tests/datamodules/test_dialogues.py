"""Dialogues about pictures: the world of shapes, and files in VisDial's own layout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.core.errors import UserError
from zoo.datamodules.shapes import ShapesDialogues
from zoo.datamodules.visdial import VisDial
from zoo.datamodules.worlds import dialogues, shapes
from zoo.spec import END, IGNORE, PAD

# ---------------------------------------------------------------------------------------------- shapes


@pytest.fixture(scope="module")
def of_shapes(tmp_path_factory) -> ShapesDialogues:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(tmp_path_factory.mktemp("home")))
        data = ShapesDialogues(16, 0, num_images=40, num_rounds=6)
        data.setup()
    return data


def test_a_batch_of_shapes_says_what_was_said_of_its_pictures(of_shapes: ShapesDialogues) -> None:
    scenes = shapes.draw_scenes(0, "val", range(40), fewest=3)
    batch = next(iter(of_shapes.val_dataloader()))
    assert torch.equal(batch["images"], shapes.render(scenes[:16]))
    decode = of_shapes.spec.decode
    for place, (things, key) in enumerate(zip(scenes[:16].things(), scenes.key[:16].tolist(), strict=True)):
        held = dialogues.hold_dialogue(things, key, 6)
        assert " ".join(decode(batch["captions"][place].tolist())) == held.caption
        for number, each in enumerate(held.rounds):
            assert " ".join(decode(batch["questions"][place, number].tolist())) == each.question
            assert decode(batch["answers"][place, number].tolist()) == [each.answer]
            rows = batch["candidates"][place, number]
            said = [decode(batch["candidate_words"][row].tolist()) for row in rows]
            assert said[batch["labels"][place, number]] == [each.answer] and len(said) == len(dialogues.ANSWERS) >= 20
            assert batch["needs_history"][place, number] == each.needs_history


def test_what_is_told_of_a_picture_is_its_dialogue(of_shapes: ShapesDialogues) -> None:
    scenes = shapes.draw_scenes(0, "train", [0, 1], fewest=3)
    for lines, things, key in zip(of_shapes.preview_texts(torch.arange(2)), scenes.things(), scenes.key.tolist(), strict=True):
        held = dialogues.hold_dialogue(things, key, 6)
        assert lines == [held.caption, *(f"{each.question}? {each.answer}" for each in held.rounds)]


def test_splits_of_shapes_share_no_picture(of_shapes: ShapesDialogues) -> None:
    pixels = [split.images.pixels for split in of_shapes.splits.values()]
    assert len(torch.unique(torch.cat(pixels).flatten(1), dim=0)) == sum(map(len, pixels)) == 120


@pytest.mark.parametrize(
    ("option", "value"), [("num_images", 0), ("num_rounds", 0), ("num_rounds", 11), ("size", 8)], ids=lambda value: str(value)
)
def test_a_wrong_option_of_shapes_is_named(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"data.{option}={value}"):
        ShapesDialogues(16, 0, **{option: value})


# ---------------------------------------------------------------------------------------------- VisDial

QUESTIONS = ["is it sunny", "what's he wearing", "how many dogs are there"]
ANSWERS = ["yes", "no", "a red shirt", "2", "i can't tell", "blue jeans"]


def dialogue(picture: int, *pairs: tuple[int, int]) -> dict[str, Any]:
    """A dialogue of rounds (question, answer), each with the answer third among four candidates."""
    held = []
    for question, answer in pairs:
        options = [(answer + step) % len(ANSWERS) for step in (2, 3, 0, 5)]
        held.append({"question": question, "answer": answer, "answer_options": options, "gt_index": 2})
    return {"image_id": picture, "caption": "A man, with two dogs.", "dialog": held}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def of_dialogues(*held: Any) -> dict[str, Any]:
    return {"version": "1.0", "split": "train", "data": {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": list(held)}}


def picture(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), gray, np.uint8)).save(path, quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training dialogues on pictures 1 to 6, and those to test with on pictures 1, 2 and 185565, which are others."""
    root = tmp_path / "visdial"
    pairs = [(0, 0), (1, 2), (2, 3)]
    write(root / "visdial_1.0_train.json", of_dialogues(*(dialogue(i, *pairs) for i in range(1, 7))))
    write(root / "visdial_1.0_val.json", of_dialogues(dialogue(1, (0, 1)), dialogue(185565, *pairs[::-1]), dialogue(2, *pairs)))
    for number in range(1, 7):
        picture(root / f"train2014/COCO_train2014_{number:012}.jpg", 10 * number)
    for number in (1, 2, 185565):
        picture(root / f"VisualDialog_val2018/VisualDialog_val2018_{number:012}.jpg", 200 + number % 50)
    dense = [{"image_id": 185565, "round_id": 2, "gt_relevance": [0.0, 0.4, 1.0, 0.2]}]
    write(root / "visdial_1.0_val_dense_annotations.json", dense)
    return root


def read(root: Path, **options: Any) -> VisDial:
    data = VisDial(2, 0, str(root), **{"size": 16, "min_count": 1, "validation": 0.7, **options})
    _ = data.spec
    data.prepare_data()
    data.setup()
    return data


def test_dialogues_find_their_pictures_and_candidates(root: Path) -> None:
    data = read(root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "test": 3, "val": 3}
    assert (data.spec.candidates, data.spec.rounds) == (4, 3)
    assert data.spec.answers == ("2", "a red shirt", "yes"), "equally frequent, so in order"
    seen = list(data.test_dataloader())
    assert torch.cat([b["images"].float().mean((1, 2, 3)) for b in seen]).tolist() == pytest.approx([201, 215, 202], abs=2)
    decode = data.spec.decode
    batch = seen[0]
    assert decode(batch["captions"][0].tolist()) == ["a", "man", "with", "two", "dogs"]
    assert decode(batch["questions"][1, 1].tolist()) == ["what", "'s", "he", "wearing"]
    assert decode(batch["answers"][1, 1].tolist()) == ["a", "red", "shirt"]
    said = [decode(batch["candidate_words"][row].tolist()) for row in batch["candidates"][1, 1]]
    # the answers at 4, 5, 2 (the right one) and 1; words that nobody said in training are unknown
    assert said == [["<unknown>"] * 4, ["<unknown>"] * 2, ["a", "red", "shirt"], ["<unknown>"]]
    assert batch["labels"].tolist() == [[2, IGNORE, IGNORE], [2, 2, 2]]
    assert (batch["questions"][0, 1:] == PAD).all() and (batch["answers"][0, 1:] == PAD).all()
    assert batch["relevance"][1].tolist() == [[0] * 4, pytest.approx([0, 0.4, 1, 0.2]), [0] * 4]
    assert not batch["relevance"][0].any()
    assert "relevance" not in next(iter(data.train_dataloader()))


def test_links_to_folders_and_files_are_followed(root: Path) -> None:
    for name in ("train2014", "visdial_1.0_train.json"):
        (root / name).rename(root.parent / name)
        (root / name).symlink_to(root.parent / name)
    assert {name: len(split) for name, split in read(root).splits.items()} == {"train": 3, "test": 3, "val": 3}


def test_words_are_cut_and_rare_ones_unknown(root: Path) -> None:
    data = read(root, max_length=3, max_caption_length=4, min_count=7, num_answers=2)
    batch = next(iter(data.test_dataloader()))
    assert data.spec.decode(batch["captions"][0].tolist()) == ["a", "<unknown>", "<unknown>"] and batch["captions"].shape[1] == 4
    assert batch["answers"][1, 1, -1] == END and batch["questions"].shape[2] == 3
    assert len(data.spec.answers) == 2


def test_compressed_files_are_read_alike(root: Path) -> None:
    first = read(root)
    for name in ("visdial_1.0_train", "visdial_1.0_val"):
        write(root / f"{name}.json.gz", json.loads((root / f"{name}.json").read_text()))
        (root / f"{name}.json").unlink()
    second = read(root)
    assert second.spec == first.spec
    assert torch.equal(second.splits["test"].columns["answers"], first.splits["test"].columns["answers"])


def test_without_training_dialogues_the_others_are_parted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.datamodules.visdial.TEST_SHARE", 0.5)
    (root / "visdial_1.0_train.json").unlink()
    data = read(root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "val": 1, "test": 1}
    assert data.spec.rounds == 3


def test_a_model_of_other_dialogues_gives_words_its_own_places(root: Path) -> None:
    trained, other = read(root), read(root, min_count=3)
    other.require_compatible(trained.spec, "visdial")
    assert other.spec.vocabulary == trained.spec.vocabulary
    assert torch.equal(other.splits["test"].columns["answers"], trained.splits["test"].columns["answers"])


def test_what_is_damaged_is_left_out_and_counted(root: Path, capfd) -> None:
    good = dialogue(3, (0, 0), (1, 2))
    good["dialog"][1]["gt_index"] = 77  # the answer is there, so it can be found
    lost = dialogue(4, (0, 0), (1, 2))
    lost["dialog"][0]["answer_options"] = [1, 2, 3, 4]  # the right one is not among them
    lost["dialog"][1]["answer_options"] = [2, 3]
    faulty = [{"image_id": 1}, dialogue(2, (0, 99)), {"caption": 3}, "none"]
    others = [dialogue(picture, (0, 0)) for picture in (999, 5, 6)]
    write(root / "visdial_1.0_train.json", of_dialogues(good, lost, *faulty, *others))
    (root / "train2014/COCO_train2014_000000000005.jpg").write_bytes(b"none")
    data = read(root)
    unreadable, told = capfd.readouterr().err.strip().splitlines()
    assert "1 of 4 images cannot be read and are skipped: " in unreadable and "COCO_train2014_000000000005.jpg" in unreadable
    assert told == (
        "warning: visdial_1.0_train.json: 4 malformed dialogues are skipped; 1 dialogues without an image are skipped; "
        "2 rounds have no correct candidate and are not ranked"
    )
    labels = torch.cat([data.splits[name].labels for name in ("train", "val")])
    assert sorted(labels.tolist()) == sorted([[2, 2], [IGNORE, IGNORE], [2, IGNORE]])


def test_dense_annotations_that_fit_nothing_are_counted(root: Path, capfd) -> None:
    entries = [
        {"image_id": 185565, "round_id": 2, "gt_relevance": [0, 0, 1, 0]},
        {"image_id": 12, "round_id": 1, "gt_relevance": [0, 0, 1, 0]},
        {"image_id": 1, "round_id": 0, "gt_relevance": [0, 0, 1, 0]},
        {"image_id": 1, "round_id": 1, "gt_relevance": [0, 1]},
    ]
    write(root / "visdial_1.0_val_dense_annotations.json", entries)
    data = read(root)
    assert "3 of 4 entries match no round" in capfd.readouterr().err
    assert data.splits["test"].columns["relevance"].sum() == 1


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("visdial_1.0_val.json", '{"data": ', "visdial_1.0_val.json: is not valid JSON"),
        ("visdial_1.0_val.json", {"data": {"questions": []}}, "data.answers is missing"),
        ("visdial_1.0_val.json", [1, 2], "data.questions is missing"),
        ("visdial_1.0_train.json", of_dialogues(), "contains no complete dialogue"),
        (
            "visdial_1.0_train.json",
            of_dialogues(dialogue(77, (0, 0))),
            "searched all folders for names such as COCO_train2014_000000000077.jpg",
        ),
        ("visdial_1.0_val_dense_annotations.json", {"a": 1}, "is not a file of dense annotations"),
        ("copy/visdial_0.9_val.json", of_dialogues(), "both exist"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named_in_one_line(root: Path, file: str, content: Any, words: str) -> None:
    write(root / file, content)
    with pytest.raises(UserError, match=words) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_a_cut_archive_and_missing_folders_are_named(root: Path) -> None:
    whole = gzip.compress((root / "visdial_1.0_val.json").read_bytes())
    (root / "visdial_1.0_val.json").unlink()
    (root / "visdial_1.0_val.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"visdial_1.0_val.json.gz: cannot be read"):
        read(root)
    (root / "visdial_1.0_val.json.gz").unlink()
    with pytest.raises(UserError, match="has no visdial_1.0_val.json"):
        read(root)
    with pytest.raises(UserError, match="there is no such folder"):
        read(root / "nowhere")
