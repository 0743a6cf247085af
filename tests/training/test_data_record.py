"""A run goes on with the files that it began with, and is not tested on what it was trained on."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shlex
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training import engine
from zoo.training.data_record import FILE, DataRecord, File
from zoo.training.run_folder import RunFolder

SETTINGS = ["data.name=folder", "data.root=photos", "data.augment=none", "recipe.epochs=2", "recipe.batch_size=8",
            "trainer.accelerator=cpu"]  # fmt: skip
LARGE = ["data.memory_gb=0", "data.size=8"]  # read batch by batch


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def train(name: str, resume: bool = False, steps: int | None = None, settings: Sequence[str] = ()) -> engine.TrainResult:
    run = resolve(scan(), "softmax", {}, [parse_setting(text) for text in (*SETTINGS, *settings)])
    folder = RunFolder.find(name) if resume else None
    callbacks = [] if steps is None else [StopAfter(steps)]
    return engine.train(scan(), run, name, folder, callbacks=callbacks, progress=False, monitor=False)


class Fault(Exception):
    """Ends a training between two steps."""


class StopAfter(L.Callback):
    """Stop before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise Fault


@pytest.fixture
def photos() -> Path:
    for label, name in enumerate(("cat", "dog")):
        for index in range(20):
            picture(Path("photos") / name / f"{index:02}.png", 100 * label + index)
    return Path("photos")


@pytest.fixture
def stopped(photos: Path) -> RunFolder:
    """A run that stopped in its second epoch."""
    with pytest.raises(Fault):
        train("run", steps=6)
    return RunFolder.find("run")


AWKWARD = ["two\nlines", '"quoted", so', "-dash", "🐈", "=1+1", "back\\slash", " ", "é" * 120]


def rows(folder: RunFolder) -> dict[str, tuple[str, str]]:
    text = gzip.decompress((folder.path / FILE).read_bytes()).decode()
    return {name: (split, digest) for split, name, digest in csv.reader(io.StringIO(text, newline=""))}


def weights(name: str) -> dict[str, torch.Tensor]:
    return torch.load(RunFolder.find(name).last, weights_only=True)["state_dict"]


def test_every_file_is_kept_with_its_split_and_a_digest_of_its_bytes(stopped: RunFolder, photos: Path) -> None:
    kept = rows(stopped)
    assert {split for split, _ in kept.values()} == {"train", "val", "test"}
    assert {name: digest for name, (_, digest) in kept.items()} == {
        path.relative_to(photos).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:32] for path in photos.rglob("*.png")
    }


def test_files_that_were_added_change_nothing_of_a_resumed_run(stopped: RunFolder, photos: Path, capfd) -> None:
    shutil.copytree("runs/run", "runs/whole")
    train("whole", resume=True)
    for index in range(15):
        picture(photos / "cat" / f"more{index}.png", 900 + index)
        picture(photos / "ant" / f"{index}.png", 950 + index)
    capfd.readouterr()
    train("run", resume=True)
    assert "30 images were added since the run began (ant/0.png, ant/1.png, ant/10.png and 27 more): it goes on without" in (
        capfd.readouterr().err
    )
    ours, expected = weights("run"), weights("whole")
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in expected)
    assert rows(stopped) == rows(RunFolder.find("whole"))


def test_a_run_whose_files_have_changed_is_refused_with_what_works(stopped: RunFolder, photos: Path, zoo, capfd) -> None:
    train_names = sorted(name for name, (split, _) in rows(stopped).items() if split == "train")
    test_name = next(name for name, (split, _) in rows(stopped).items() if split == "test")
    changed, gone = photos / train_names[0], photos / train_names[1]
    content = changed.read_bytes()
    before = stopped.last.read_bytes()
    picture(changed, 555), gone.unlink()
    answer = zoo("train", "--resume", "run")
    assert answer.is_one_line_error(f"1 changed ({train_names[0]}), 1 missing ({train_names[1]})", "cannot go on exactly")
    assert stopped.last.read_bytes() == before
    commands = answer.err.strip().split("zoo train ")[1].split(", or with its weights: zoo finetune ")
    assert zoo("train", *shlex.split(commands[0]), "--name", "new").code == 0
    assert zoo("finetune", *shlex.split(commands[1]), "--epochs", "1", "--name", "on").code == 0
    # back again, and a test image changed, which is no reason to stop
    changed.write_bytes(content)
    picture(gone, int(gone.stem) + (100 if gone.parent.name == "dog" else 0))
    picture(photos / test_name, 777)
    capfd.readouterr()
    train("run", resume=True)
    assert f"test images are 1 changed ({test_name}) since the run began" in capfd.readouterr().err


def test_what_was_trained_on_is_left_out_of_every_test(photos: Path, zoo, capfd) -> None:
    train("run")
    trained = [name for name, (split, _) in rows(RunFolder.find("run")).items() if split == "train"]
    tested = json.loads(zoo("test", "run", "--json").out)
    for number, name in enumerate(trained):  # some land in the test split, under another name
        shutil.copy(photos / name, photos / "cat" / f"copy{number}.png")
    answer = zoo("test", "run", "--json")
    assert json.loads(answer.out) == tested
    copies = len(trained)
    assert f"images of folder since the training: {copies} added" in answer.err
    assert "test images were trained on, by their content, and are left out" in answer.err
    other = Path("other")
    for name in trained[:5]:
        (other / "cat").mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, other / "cat")
    assert zoo("test", "run", "--data", "other/").code == 2
    for index in range(4):
        picture(other / "dog" / f"{index}.png", 40 + index)
    answer = zoo("test", "run", "--data", "folder", "--set", "data.root=other", "--json")
    assert "other: has no test split: testing on all" in answer.err and "were trained on" in answer.err
    assert np.sum(json.loads(answer.out)["confusion"]) == 4
    capfd.readouterr()
    again = train("again")  # training tests the same images as zoo test
    assert json.loads(zoo("test", "again", "--json").out)["test/accuracy"] == pytest.approx(again.test["test/accuracy"])


def test_a_file_that_became_unreadable_is_not_in_another_split() -> None:
    before = DataRecord({"a.png": File("train", b"1"), "b.png": File("test", b"2")})
    after = DataRecord({"a.png": File("unreadable", b""), "b.png": File("val", b"2")})
    assert before.changes(after, ("train", "val", "test")) == "1 in another split (b.png), 1 unreadable (a.png)"


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    assert DataRecord.read(tmp_path).files == {}
    for content in (b"", b"no", gzip.compress(b"a,b\n"), gzip.compress(b"train,a.png,xyz\n"), gzip.compress(b"x" * 99)[:-9]):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"data.csv.gz is damaged: remove it"):
            DataRecord.read(tmp_path)


def test_files_of_any_name_are_found_again_and_in_any_form_of_unicode(photos: Path) -> None:
    for number, name in enumerate(AWKWARD):
        picture(photos / "cat" / f"{name}.png", 500 + number)
    composed, decomposed = (photos / "dog" / unicodedata.normalize(form, "Ünique.png") for form in ("NFC", "NFD"))
    picture(composed, 600)
    whole = train("whole")
    with pytest.raises(Fault):
        train("run", steps=6)
    names = {f"cat/{name}.png" for name in AWKWARD} | {"dog/Ünique.png"}
    assert names <= rows(RunFolder.find("run")).keys()
    composed.rename(decomposed)
    assert train("run", resume=True).test == whole.test
    former, now = weights("whole"), weights("run")
    assert all(torch.equal(former[name], now[name]) for name in former)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def test_the_content_of_large_data_is_recorded_when_it_was_read(photos: Path, capfd) -> None:
    with pytest.raises(Fault):
        train("run", steps=1, settings=LARGE)
    first = rows(RunFolder.find("run"))
    assert set(first) == {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}
    assert {kept for _, kept in first.values()} == {""}  # no file is read for it before the first step
    train("run", resume=True, settings=LARGE)
    assert rows(RunFolder.find("run")) == {name: (split, digest(photos / name)) for name, (split, _) in first.items()}
    train("memory", settings=["data.size=8"])
    assert rows(RunFolder.find("memory")) == rows(RunFolder.find("run"))


def test_large_data_that_has_changed_is_refused_or_named(photos: Path, zoo, capfd, monkeypatch) -> None:
    monkeypatch.setattr("zoo.datamodules.bases.images.SAMPLED", 2)  # images for the statistics, which are read at the start
    with pytest.raises(Fault):
        train("run", steps=6, settings=LARGE)
    names = [name for name, (split, _) in rows(RunFolder.find("run")).items() if split == "train"]
    content = (photos / names[1]).read_bytes()
    shutil.copytree("runs/run", "runs/other")
    for index in range(5):
        picture(photos / "cat" / f"more{index}.png", 900 + index)
    picture(photos / names[1], 555)
    capfd.readouterr()
    train("run", resume=True, settings=LARGE)
    told = capfd.readouterr().err
    assert "5 images were added since the run began" in told
    assert told.count(f"1 images have changed since the run began ({names[1]}): it does not go on exactly") == 1
    refused = zoo("train", "--resume", "other")  # it is known now
    assert refused.code == 2 and f"1 changed ({names[1]}), so it cannot go on exactly" in refused.err
    (photos / names[1]).write_bytes(content)
    (photos / names[2]).unlink()
    refused = zoo("train", "--resume", "other")
    assert refused.code == 2 and f"are 1 missing ({names[2]}), so it cannot go on exactly" in refused.err


def test_large_data_is_not_tested_on_what_it_was_trained_on(photos: Path, zoo, capfd) -> None:
    for index in range(20):  # in both classes, so that some are in both splits
        shutil.copy(photos / "cat" / f"{index:02}.png", photos / "dog" / f"copy{index:02}.png")
    counted = {}
    for name, settings in {"memory": ["data.size=8"], "large": LARGE}.items():
        capfd.readouterr()
        result = train(name, settings=settings)
        told = capfd.readouterr().err
        assert "test images were trained on, by their content, and are left out" in told
        counted[name] = told[: told.index(" test images were trained on")].rsplit(": ", 1)[1]
        tested = json.loads(zoo("test", name, "--json").out)
        assert tested["test/accuracy"] == pytest.approx(result.test["test/accuracy"])
        counted[f"{name} again"] = str(np.sum(tested["confusion"]))
    assert counted["memory"] == counted["large"] and counted["memory again"] == counted["large again"]
    other = Path("other")
    train_names = [name for name, (split, _) in rows(RunFolder.find("large")).items() if split == "train"]
    for name in train_names[:3]:
        for class_name in ("cat", "dog"):
            (other / class_name).mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / name, other / class_name)
    settings = ["data.root=other", *LARGE]
    arguments = ["test", "large", "--data", "folder", *(part for setting in settings for part in ("--set", setting))]
    refused = zoo(*arguments)
    assert refused.code == 2 and "all 6 test images are training images, too, by their content" in refused.err
    (other / "dog" / "new.png").write_bytes(b"not a picture")
    refused = zoo(*arguments, "--set", "trainer.limit_test_batches=1")
    assert refused.code == 2 and "no test sample counts" in refused.err and "raise trainer.limit_test_batches=1" in refused.err
    picture(other / "dog" / "new.png", 40)
    answer = zoo(*arguments, "--json")
    assert np.sum(json.loads(answer.out)["confusion"]) == 1 and "6 of 7 test images were trained on" in answer.err


TEXT = ["data.name=text", "data.root=letters", "data.seq_len=8", "recipe.epochs=2", "recipe.batch_size=2",
        "trainer.accelerator=cpu", "model.hidden_size=4"]  # fmt: skip


def write_on(name: str, resume: bool = False, steps: int | None = None) -> engine.TrainResult:
    run = resolve(scan(), "char-rnn", {}, [parse_setting(text) for text in TEXT])
    folder = RunFolder.find(name) if resume else None
    callbacks = [] if steps is None else [StopAfter(steps)]
    return engine.train(scan(), run, name, folder, callbacks=callbacks, progress=False, monitor=False)


def test_texts_are_recorded_too(tmp_path: Path, zoo, capfd) -> None:
    letters = Path("letters")
    letters.mkdir()
    for name in ("a.txt", "b.txt"):
        (letters / name).write_text(f"{name} is a letter of some length. " * 12)
    with pytest.raises(Fault):
        write_on("run", steps=6)
    assert rows(RunFolder.find("run")) == {name: ("train", digest(letters / name)) for name in ("a.txt", "b.txt")}
    shutil.copytree("runs/run", "runs/whole")
    write_on("whole", resume=True)
    (letters / "aa.txt").write_text("another ß")
    capfd.readouterr()
    write_on("run", resume=True)
    assert "1 texts were added since the run began (aa.txt): it goes on without them" in capfd.readouterr().err
    ours, expected = weights("run"), weights("whole")
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    (letters / "aa.txt").unlink()
    with (letters / "b.txt").open("a") as file:
        file.write("more")
    answer = zoo("test", "run")
    assert answer.code == 0 and "texts of text since the training: 1 changed (b.txt)" in answer.err
