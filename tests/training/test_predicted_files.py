"""What ``zoo predict`` writes of many images: as CSV, as JSON, as a table or into a file, and without those it cannot read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.api.trained import load
from zoo.commands.predictions import print_answers
from zoo.core.errors import UserError
from zoo.core.printing import printable
from zoo.tasks.prediction import Ranking
from zoo.training import prediction

QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=4", "--set", "trainer.accelerator=cpu"]


@pytest.fixture
def photos(zoo) -> Path:
    """A run named ``first``, and a folder of seven pictures, one of them of an awkward name."""
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    folder = Path("photos")
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.new("L", (9, 9), 90).save(folder / 'so, "called" ü.png')
    return folder


def test_csv_json_and_table_say_the_same(zoo, photos: Path) -> None:
    said = json.loads(zoo("predict", "first", photos, "--json", "--top", "4").out)
    rows = list(csv.DictReader(io.StringIO(zoo("predict", "first", photos, "--csv", "--top", "4").out)))
    table = zoo("predict", "first", photos, "--top", "4").out.splitlines()
    assert len(said) == len(rows) == len(table) - 2 == 7 and table[-1] == "next: zoo picture saliency first IMAGE..."
    columns = ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3", "class_4", "probability_4"]
    assert list(rows[0]) == columns and rows[-1]["file"] == 'photos/so, "called" ü.png'
    for one, row, line in zip(said, rows, table[1:], strict=False):
        assert (row["file"], row["class"]) == (one["file"], one["class"]) and line.startswith(one["file"])
        for place, then in enumerate(one["top"][1:], 2):
            assert row[f"class_{place}"] == then["class"]
            assert float(row[f"probability_{place}"]) == pytest.approx(then["probability"], abs=1e-6)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_file_holds_what_is_printed(zoo, photos: Path, ending: str) -> None:
    answer = zoo("predict", "first", photos, "-o", f"said/of.{ending}")
    assert answer.code == 0 and answer.out.splitlines()[0] == f"said/of.{ending}: 7 predictions"
    assert Path(f"said/of.{ending}").read_text() == zoo("predict", "first", photos, f"--{ending}").out
    assert [path.name for path in Path("said").iterdir()] == [f"of.{ending}"]


def test_the_printed_json_is_that_of_the_library(zoo, photos: Path) -> None:
    text = zoo("predict", "first", photos, "--json").out
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("form", [["--csv"], ["--json"], [], ["-o", "said.csv"]])
def test_the_rest_is_answered_if_files_cannot_be_read(zoo, photos: Path, form: list[str]) -> None:
    (photos / "2.png").write_bytes(b"not an image")
    (photos / "5.png").write_bytes((photos / "5.png").read_bytes()[:40])
    answer = zoo("predict", "first", photos, *form)
    assert answer.code == 0, "a folder may hold anything"
    warnings = answer.err.splitlines()
    assert [line.split(" is skipped: ")[0] for line in warnings] == ["warning: photos/2.png", "warning: photos/5.png"]
    named = zoo("predict", "first", *sorted(photos.iterdir()), *form)
    assert named.code == 2 and named.err.splitlines()[:2] == warnings
    assert named.err.splitlines()[2:] == ["error: 2 of the files that were named cannot be read: photos/2.png, photos/5.png"]
    out = Path("said.csv").read_text() if "-o" in form else named.out
    assert [number for number in range(6) if f"photos/{number}.png" in out] == [0, 1, 3, 4] and "ü" in out
    if form == ["--json"]:
        assert len(json.loads(out)) == 5


def test_a_named_file_that_is_repeated_is_answered_again(zoo, photos: Path) -> None:
    said = json.loads(zoo("predict", "first", photos / "0.png", photos / "0.png", "--json").out)
    assert len(said) == 2 and said[0] == said[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--csv", "--json"], ["--json and --csv are mutually exclusive"]),
        (["-o", "said.txt"], ["--output said.txt", ".csv or .json"]),
        (["-o", "said.csv", "--json"], ["--output said.csv", "--json"]),
        (["-o", "photos/0.png/said.csv"], ["photos/0.png is not a folder"]),
        (["-o", "said.csv", "--top", "0"], ["--top 0"]),
        (["-o", "said.csv", "--beams", "3"], ["--beams does not apply to classification"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(zoo, photos: Path, arguments: list[str], words: list[str]) -> None:
    assert zoo("predict", "first", photos, *arguments).is_one_line_error(*words)
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "runs"]


@pytest.mark.parametrize("form", [["--csv"], ["--json"], [], ["-o", "said.csv"]])
def test_a_folder_without_a_readable_image_prints_and_writes_nothing(zoo, photos: Path, form: list[str]) -> None:
    for file in photos.iterdir():
        file.write_bytes(b"not an image")
    answer = zoo("predict", "first", photos, *form)
    assert answer.code == 2 and not answer.out and answer.err.splitlines()[-1] == "error: photos: no image can be read"
    assert not Path("said.csv").exists()


def test_a_fault_in_the_middle_keeps_the_old_file(zoo, photos: Path, monkeypatch) -> None:
    Path("said.csv").write_text("old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert zoo("predict", "first", photos, "-o", "said.csv").code == 2
    assert Path("said.csv").read_text() == "old" and sorted(Path().iterdir()) == [Path("photos"), Path("runs"), Path("said.csv")]


def test_answers_come_before_later_images_are_read(photos: Path, monkeypatch) -> None:
    read = []
    former = prediction.read_image
    monkeypatch.setattr(prediction, "read_image", lambda path, spec: read.append(path) or former(path, spec))
    answers = load("first").stream(["photos"], batch_size=2)
    assert read == []
    next(answers)
    assert len(read) == 2 and not torch.is_inference_mode_enabled()
    assert len(list(answers)) == 6 and len(read) == 7


def test_what_was_said_before_a_fault_is_printed(capsys) -> None:
    def some():
        yield "a.png", Ranking({"cat": 0.75, "dog": 0.25}, "class")
        raise UserError("no more")

    for form in ("csv", "json", "table"):
        with pytest.raises(UserError, match="no more"):
            print_answers(some(), form)
        out = capsys.readouterr().out
        assert "a.png" in out and (form != "json" or json.loads(out)[0]["class"] == "cat")


AWKWARD = ["-dash", "two\nlines", "tab\t", '"quoted"', "=1+1", " spaces ", "back\\slash", "🐈", "é" * 120, "%s {0}", "e\u0301"]
AWKWARD += ["caf\udce9"]  # a byte that is not UTF-8


def test_files_of_any_name_are_predicted(zoo, photos: Path) -> None:
    folder = Path("awkward")
    folder.mkdir()
    for name in AWKWARD:
        (folder / f"{name}.png").write_bytes((photos / "0.png").read_bytes())
    files = {f"awkward/{name}.png" for name in AWKWARD}
    assert {each["file"] for each in json.loads(zoo("predict", "first", folder, "--json").out)} == files
    rows = list(csv.DictReader(io.StringIO(zoo("predict", "first", folder, "--csv").out)))
    assert {row["file"] for row in rows} == {printable(file) for file in files} and len({row["class"] for row in rows}) == 1
    answer = zoo("predict", "first", folder)
    assert answer.code == 0 and len(answer.out.splitlines()) == len(AWKWARD) + 2


def test_what_is_left_out_of_a_folder_is_named(zoo, photos: Path) -> None:
    for name in ("._0.png", "notes.txt", "README"):
        (photos / name).write_text("text")
    (photos / "2.png").rename(photos / "without an ending")
    answer = zoo("predict", "first", photos, "--json")
    assert len(json.loads(answer.out)) == 7
    assert answer.err == "warning: photos: left out: 1 hidden (._0.png), 2 of other types (README, notes.txt)\n"
    for name in Path("photos").glob("*[!t]"):
        name.unlink()
    assert zoo("predict", "first", photos).is_one_line_error("photos: holds no images; left out: 1 of other types (notes.txt)")


def test_images_that_show_nothing_within_the_range_of_the_network_are_named(zoo, capfd) -> None:
    for label, name in enumerate(("dark", "bright")):
        Path("deep", name).mkdir(parents=True)
        for number in range(20):
            values = np.random.default_rng(100 * label + number).integers(1000, 2000, (8, 8)) + 2000 * label
            Image.fromarray(values.astype(np.uint16)).save(f"deep/{name}/{number}.png")
    assert zoo("train", "softmax", "--data", "deep", *QUICK, "--name", "first").code == 0
    Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)).save("other.tiff")
    answer = zoo("predict", "first", "deep/dark/0.png", "other.tiff")
    assert answer.code == 0 and len(answer.out.splitlines()) == 4
    (warning,) = [line for line in answer.err.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning: 1 image is constant for ") and warning.endswith(": other.tiff")
