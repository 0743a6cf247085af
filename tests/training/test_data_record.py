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
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from zoo.config.recipe import parse_setting, resolve
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training import engine
from zoo.training.data_record import FILE, DataRecord
from zoo.training.run_folder import RunFolder

SETTINGS = ["data.name=folder", "data.root=photos", "data.augment=none", "recipe.epochs=2", "recipe.batch_size=8",
            "trainer.accelerator=cpu"]  # fmt: skip


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def train(name: str, resume: bool = False, steps: int | None = None) -> engine.TrainResult:
    run = resolve(scan(), "softmax", {}, [parse_setting(text) for text in SETTINGS])
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
        path.relative_to(photos).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in photos.rglob("*.png")
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
