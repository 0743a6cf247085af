"""Advice before fine-tuning: what it finds, against counts, hashes and headers that are taken here by hand."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.analysis.advice import Advice, advise, find_duplicates, report, suggest
from zoo.core.errors import UserError
from zoo.datamodules.folder import Folder
from zoo.registry.registry import scan

ROOT = Path("photos")


def photograph(path: Path, seed: int, width: int = 40, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def photographs(**classes: int) -> None:
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            photograph(ROOT / name / f"{index:03}.png", 1000 * number + index)


def copy(source: str, target: str) -> None:
    (ROOT / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / source, ROOT / target)


def advice(weighs_classes: bool = False, **options: object) -> Advice:
    data = Folder(8, 0, str(ROOT), **options)
    data.prepare_data()
    data.setup()
    return advise(data, "folder", ["data.root=photos"], weighs_classes=weighs_classes)


def split_photographs() -> None:
    for number, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(("cat", "dog")):
            for index in range(6):
                photograph(ROOT / split / name / f"{index}.png", 100 * number + 10 * label + index)


def test_beyond_memory_headers_are_read_and_no_more_is_claimed() -> None:
    photographs(cat=20, dog=20)
    found = advice(memory_gb=0)
    assert report(found)[-2] == "problems none: no duplicates, no unreadable headers; damage behind them is found in training"
    (ROOT / "cat" / "003.png").write_bytes(b"no image")
    found = advice(memory_gb=0)
    assert found.unreadable == ["photos/cat/003.png"] and "1 unreadable: photos/cat/003.png" in found.warnings()


def test_a_training_does_not_wait_until_large_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    split_photographs()
    data = Folder(4, 0, root="photos", size=16, memory_gb=0)
    data.prepare_data()
    data.setup()
    monkeypatch.setattr("zoo.analysis.advice.SAMPLED", 2)
    with monkeypatch.context() as patch:
        patch.setattr("zoo.datamodules.files.digests.DigestTable.note", None)  # which reads a file
        brief = advise(data, "folder", read=False).brief()
    assert len(brief) == 1 and brief[0] in advise(data, "folder").brief()


def test_images_are_counted_in_every_class_and_split() -> None:
    split_photographs()
    for extra in range(3):
        photograph(ROOT / "train" / "dog" / f"more{extra}.png", 900 + extra)
    (ROOT / "test" / "cat" / "0.png").unlink()
    found = advice()
    counted = Counter((path.parts[1], path.parts[2]) for path in ROOT.rglob("*.png"))
    assert found.images == {
        split: {name: counted[split, name] for name in ("cat", "dog")} for split in ("train", "val", "test")
    }  # fmt: skip
    assert found.imbalance == 9 / 6
    assert found.majority_baseline == pytest.approx(6 / 11), "dogs are most in training, and 6 of the 11 test images"
    assert found.duplicates == [] and found.warnings() == []
    assert found.brief() == ["always predicting 'dog' is right for 6 of 11 test images"]


def test_copies_are_those_of_a_plain_hash() -> None:
    split_photographs()
    copy("train/cat/0.png", "train/cat/again.png")  # twice in a class
    copy("train/cat/1.png", "train/dog/cat.png")  # in two classes
    copy("train/dog/2.png", "test/dog/leak.png")  # in training and in test
    copy("train/dog/2.png", "test/dog/leak2.png")
    copy("val/dog/2.png", "test/dog/other.png")
    copy("train/dog/3.png", "val/dog/leak.png")
    photograph(ROOT / "train" / "dog" / "bmp.bmp", 1), photograph(ROOT / "train" / "cat" / "bmp.bmp", 2)  # equal in size alone
    duplicates = {kind.kind: kind for kind in advice().duplicates}
    groups = defaultdict(set)
    for path in ROOT.rglob("*.*"):
        groups[hashlib.sha256(path.read_bytes()).hexdigest()].add(str(path.relative_to(ROOT)))
    groups = [group for group in groups.values() if len(group) > 1]
    parts = [{tuple(path.split("/")[:2]) for path in group} for group in groups]
    expected = {
        "classes": [g for g, p in zip(groups, parts, strict=True) if len({label for _, label in p}) > 1],
        "test": [g for g, p in zip(groups, parts, strict=True) if "test" in {s for s, _ in p} and len({s for s, _ in p}) > 1],
        "val": [g for g, p in zip(groups, parts, strict=True) if {"val", "train"} <= {split for split, _ in p}],
        "split": [g for g, p in zip(groups, parts, strict=True) if len(p) < len(g)],
    }
    assert set(duplicates) == set(expected) and all(expected.values())
    for kind, found in expected.items():
        assert duplicates[kind].distinct == len(found)
        assert duplicates[kind].examples == sorted(sorted(group) for group in found)
    assert duplicates["test"].images == 3 and duplicates["val"].images == 1


def test_copies_across_splits_that_are_drawn_are_found() -> None:
    photographs(cat=30, dog=30)
    for index in range(30):
        copy(f"cat/{index:03}.png", f"cat/copy{index:03}.png")
    data = Folder(8, 0, str(ROOT))
    data.setup()
    found = advise(data, "folder")
    where = defaultdict(set)
    for split, files in data.splits.items():
        for path in files.files:
            where[Path(path).name[-7:] if "cat" in path else path].add(split)
    leaks = [splits for splits in where.values() if "test" in splits and len(splits) > 1]
    assert leaks, "a tenth of the pairs at least is torn apart"
    test = next(duplicates for duplicates in found.duplicates if duplicates.kind == "test")
    assert test.distinct == test.images == len(leaks)
    assert test.examples[0][0].endswith(("(train)", "(val)", "(test)")), "where it was drawn to stands in no path"
    share = f"{len(leaks)} of {len(data.splits['test'])} images"
    assert any(f"too high by up to {share}" in line for line in found.warnings())


def test_many_copies_are_three_and_a_count() -> None:
    labels = {"train": [0, 1] * 5}
    groups = [[("train", 2 * index), ("train", 2 * index + 1)] for index in range(5)]
    (found,) = find_duplicates(groups, labels, lambda split, index: f"{index}.png")
    assert (found.kind, found.distinct, found.images) == ("classes", 5, 10)
    assert found.examples == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png", "5.png"]]


def test_sizes_are_those_in_the_headers() -> None:
    photographs(cat=10, dog=10)
    shapes = {"a": (300, 20), "b": (20, 300), "c": (50, 60), "d": (500, 400), "e": (64, 64)}
    for number, (name, shape) in enumerate(shapes.items()):
        photograph(ROOT / "cat" / f"{name}.png", 500 + number, *shape)
    turned = Image.open(ROOT / "cat" / "a.png")
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side
    turned.save(ROOT / "cat" / "a.png", exif=exif)
    sizes = advice(size=48).sizes
    assert (sizes.smallest, sizes.median, sizes.largest, sizes.scaled_to) == ((40, 40), (40, 40), (500, 400), (48, 48))
    assert sizes.enlarged == 22, "all of 40x40, and the two with a side of 20"


def test_faults_are_told() -> None:
    photographs(cat=40, dog=3, owl=1)
    (ROOT / "cat" / "000.png").write_bytes((ROOT / "cat" / "000.png").read_bytes()[:200])
    found = advice()
    assert found.unreadable == ["photos/cat/000.png"]
    told = "\n".join(found.warnings())
    assert "unreadable and skipped: photos/cat/000.png\n" in told
    assert "owl: not in the test metrics" in told
    large, small = found.images["train"]["cat"], max(1, min(found.images["train"].values()))
    assert f"cat has {large / small:.1f} times the training images of" in told
    train = [count for count in found.images["train"].values() if count]
    low, high = (sum(train) / len(train) / count for count in (max(train), min(train)))
    assert f"weighs images of the largest class {low:.2g} and of the smallest {high:.2g} in the loss" in told
    assert f"data.sampling=balanced draws {sum(train) / len(train):.0f} of each class an epoch" in told
    assert all(line.startswith("warning: ") for line in found.brief()[:-1]) and len(found.brief()) == 2, (
        "what is unreadable or lacking was told before"
    )
    assert sum(line.startswith("problem  ") for line in report(found)) == 2 + len(found.notes)


@pytest.mark.parametrize(
    ("counts", "freeze", "words"),
    [
        ([19, 19], "backbone", "2 classes with 19 training images each"),
        ([1, 5, 900], "backbone", "3 classes with 1 to 900 (median 5) training images each"),
        ([50, 50], "epochs:3", "head"),
        ([199, 150], "epochs:3", "head"),
        ([200, 250], "none", "all layers"),
    ],
)
def test_the_regime_follows_from_the_images_of_the_usual_class(counts: list[int], freeze: str, words: str) -> None:
    found = suggest(dict(zip("abc", counts, strict=False)), "folder", ["data.root=my photos"])
    assert found.freeze == freeze and words in found.reason
    command = shlex.split(found.command)
    assert command[:6] == ["zoo", "finetune", "efficientnet-lite0", "--data", "folder", "--freeze"]
    assert command[6:9] == [freeze, "--set", "data.root=my photos"]
    assert ("recipe.layer_decay=0.75" in command) == (freeze != "backbone")
    assert "data.size" not in found.command


def test_unbalanced_classes_get_weights_unless_the_training_makes_up_for_them() -> None:
    asked = ["recipe.class_weights=balanced", "recipe.monitor=balanced_accuracy"]
    found = suggest({"a": 90, "b": 30}, "digits", [])
    assert all(setting in found.command for setting in asked) and "a has 3.0 times as many as b" in found.reason
    for other in (suggest({"a": 90, "b": 31}, "digits", []), suggest({"a": 90, "b": 30}, "digits", [], is_balanced=True)):
        assert not any(setting in other.command for setting in asked)


def test_a_training_that_balances_is_not_told_how_to() -> None:
    photographs(cat=40, dog=6)
    remedies = ("class_weights", "sampling")
    assert all(remedy in advice(validation=0.3, test=0.2).brief()[0] for remedy in remedies)
    for found in (advice(validation=0.3, test=0.2, sampling="balanced"), advice(validation=0.3, test=0.2, weighs_classes=True)):
        assert "times the training images of dog" in found.brief()[0]
        assert not any(remedy in found.brief()[0] + found.suggestion.command for remedy in remedies)


def test_the_settings_of_the_command_are_those_of_the_model() -> None:
    """What is suggested is checked as ``zoo finetune`` would, as far as these keys are known."""
    from zoo.config.recipe import Recipe
    from zoo.config.resolution import resolve
    from zoo.config.settings import parse_setting

    for count in (5, 50, 500):
        words = shlex.split(suggest({"a": count, "b": count}, "digits", []).command)
        settings = [parse_setting(word) for option, word in zip(words, words[1:], strict=False) if option == "--set"]
        known = [tree for tree in settings if set(tree["recipe"]) <= set(Recipe.model_fields)]
        assert known and resolve(scan(), words[2], {}, known).data["name"] == "digits"


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_on_a_folder(zoo) -> None:
    split_photographs()
    copy("train/cat/1.png", "test/dog/cat.png")
    answer = zoo("data", "advise", "folder", "--set", "data.root=photos")
    assert answer.code == 0 and "images   37 in 2 classes: 12 train, 12 val, 13 test" in answer.out
    assert "1 image occurs in two classes, so one of the labels is wrong" in answer.out
    assert "remove one copy: test/dog/cat.png = train/cat/1.png\n" in answer.out
    assert "too high by up to 1 of 13 images; remove one copy" in answer.out
    last = answer.out.splitlines()[-1]
    assert last.startswith("next: zoo finetune efficientnet-lite0 --data folder --freeze backbone --set data.root=photos")
    found = json.loads(zoo("data", "advise", "folder", "--set", "data.root=photos", "--json").out)
    assert found["images"]["test"] == {"cat": 6, "dog": 7} and found["suggestion"]["command"] == last.removeprefix("next: ")
    assert found["duplicates"][0]["examples"] == [["test/dog/cat.png", "train/cat/1.png"]]
    for path in ("photos", "photos/", "./photos"):
        assert json.loads(zoo("data", "advise", path, "--json").out)["images"] == found["images"]
        assert zoo("data", "show", path, "--measure").out.startswith("folder")


def test_data_that_lies_in_no_files(zoo) -> None:
    found = json.loads(zoo("data", "advise", "digits", "--json").out)
    from sklearn.datasets import load_digits

    per_class = Counter(f"{label}" for label in load_digits().target)
    assert Counter({name: sum(found["images"][split][name] for split in found["images"]) for name in per_class}) == per_class
    assert found["sizes"] is None and found["duplicates"] == []


def test_copies_among_pixels_are_found() -> None:
    data = scan().data_set("digits").load()(8, 0)
    data.setup()
    pixels = data.splits["test"].images.pixels
    pixels[7] = data.splits["train"].images.pixels[3]
    (found, *more) = [duplicates for duplicates in advise(data, "digits").duplicates if duplicates.kind == "test"]
    assert not more and found.examples == [["test 7", "train 3"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folder"], ["data.root must be given"]),
        (["folder", "--set", "data.root=photo"], ["no such", "did you mean 'photos'"]),
        (["photo/"], ["no such", "did you mean 'photos'"]),
        (["folder", "--set", "data.root=photos"], ["none of 2 images is held out", "data.test=0."]),
        (["spirals"], ["not an image classification data set", "folder"]),
        (["pydoc"], ["not an image classification data set"]),
        (["folders"], ["no data set 'folders'", "'folder'"]),
    ],
)
def test_a_mistake_is_one_line(zoo, arguments: list[str], words: list[str]) -> None:
    photographs(cat=1, dog=1)
    assert zoo("data", "advise", *arguments).is_one_line_error(*words)


def test_points_are_refused() -> None:
    data = scan().data_set("blobs").load()(8, 0)
    data.setup()
    with pytest.raises(UserError, match="not for image classification"):
        advise(data, "blobs")
