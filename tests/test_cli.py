"""The command as a user meets it: what it prints, how it ends, and one line for every mistake."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from zoo.api.training import train
from zoo.config.resolution import resolve
from zoo.core.errors import UserError
from zoo.core.files import making_folder
from zoo.registry.registry import scan
from zoo.training import run_folder
from zoo.training.run_folder import RunFolder

QUICK = ["--epochs", "2", "--set", "trainer.limit_train_batches=4", "--set", "trainer.accelerator=cpu"]


def class_folders(root: Path, classes: dict[str, int], size: int = 10) -> Path:
    """A tree of PNGs: each class has a color of its own, so that it can be learned."""
    generator = np.random.default_rng(0)
    for index, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 60, (size, size, 3), dtype=np.uint8)
            pixels[..., index % 3] += 150
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with a finished one named ``first``."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ZOO_HOME", str(folder / "cache"))
        train("softmax", name="first", epochs=2, settings=QUICK[3::2], progress=False)
    return folder / "runs"


@pytest.fixture
def trained(finished: Path) -> RunFolder:
    shutil.copytree(finished, "runs")
    return RunFolder(Path("runs/first"))


# ---------------------------------------------------------------------------------------------- what works


def test_list_shows_every_model_and_the_next_command(zoo) -> None:
    answer = zoo("list")
    assert answer.code == 0 and "resnet20" in answer.out and "next: zoo show NAME" in answer.out
    lines = [line.split()[0] for line in answer.out.splitlines()[1:] if line.strip()]
    assert lines.index("resnet20") < lines.index("resnet110"), "names are in natural order"


def test_every_command_is_found_and_explains_itself(zoo) -> None:
    from zoo.cli import DATA_PANELS, PANELS

    top = zoo("--help").out
    for group, panels in (([], PANELS), (["data"], DATA_PANELS)):
        for heading, commands in panels.items():
            assert group or heading in top
            for command in commands:
                answer = zoo(*group, command, "--help")
                assert answer.code == 0 and f"Usage: zoo {' '.join([*group, command])}" in answer.out, command


@pytest.mark.parametrize(("command", "kind"), [(["list"], "models"), (["data", "list"], "data")])
def test_a_list_is_grouped_by_task_and_readable_at_80_columns(zoo, monkeypatch, command: list[str], kind: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = zoo(*command).out.splitlines()
    entries, text = getattr(scan(), kind), "\n".join(lines)
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith("  ") and line[2] != " "]
    assert sorted(row[0] for row in rows) == sorted(entries), "every name once, with its description beside it"
    assert len({line.index(row[1], 2 + len(row[0])) for line in lines for row in rows if line.startswith(f"  {row[0]} ")}) == 1
    for task in {entry.task for entry in entries.values()}:
        group = text.partition(f"{task.replace('-', ' ').capitalize()}\n")[2].partition("\n\n")[0]
        names = [line.split()[0] for line in group.splitlines() if line[2] != " "]
        assert sorted(names) == sorted(entry.name for entry in entries.values() if entry.task == task)
        known = {word for name in names for word in entries[name].summary.replace("``", "").split()}
        told = {word for line in group.splitlines() for word in line.split()} - set(names)
        assert {word.strip(".,:;") for word in told} <= {word.strip(".,:;") for word in known}, "whole words"


def test_list_answers_where_a_setting_is(zoo) -> None:
    assert zoo("list", "dropout").is_one_line_error("option of", "mlp", "more: zoo train", "--set model.dropout=")
    assert zoo("list", "root").is_one_line_error("--set data.root=VALUE")
    assert zoo("list", "dropot").is_one_line_error("did you mean 'dropout'?")
    for key in ("augment", "momentum"):
        answer = zoo("list", key)
        assert answer.is_one_line_error(f"'{key}'")
        command = shlex.split(answer.err.partition(": zoo ")[2])
        assert zoo(*command, *(QUICK if command[0] == "train" else [])).code == 0, command


def test_list_can_be_narrowed_by_name_tag_and_task(zoo) -> None:
    names = [entry["name"] for entry in json.loads(zoo("list", "vgg1?", "--json").out)]
    assert names == ["vgg11", "vgg13", "vgg16", "vgg19"]
    tagged = json.loads(zoo("list", "linear", "--task", "classification", "--json").out)
    assert [entry["name"] for entry in tagged] == ["softmax", "svm"]
    assert zoo("list", "nothing-like-it").is_one_line_error("nothing matches")
    assert zoo("list", "resnt20").is_one_line_error("nothing matches 'resnt20'", "did you mean 'resnet20'?")
    assert zoo("list", "--task", "clasification").is_one_line_error("did you mean 'classification'?")


def test_show_tells_options_recipe_and_data(zoo) -> None:
    answer = zoo("show", "resnet20")
    assert all(text in answer.out for text in ("depth = 20", "lr = 0.2", "digits", "zoo train resnet20", "1512.03385"))
    assert json.loads(zoo("show", "resnet20", "--json").out)["recipe"]["optimizer"] == "sgd"


def test_train_leaves_a_run_that_tests_and_predicts_alone(zoo, trained: RunFolder, tmp_path: Path) -> None:
    assert {path.name for path in trained.path.iterdir()} == {
        "run.yaml",
        "environment.json",
        "metrics.jsonl",
        "monitors.jsonl",
        "checkpoints",
        ".lock",
    }
    assert {path.name for path in trained.checkpoints.iterdir()} == {"last.ckpt", "best.ckpt"}
    elsewhere = tmp_path / "moved"
    shutil.move(trained.path, elsewhere)
    figures = json.loads(zoo("test", elsewhere, "--json").out)
    assert 0 <= figures["test/accuracy"] <= 1 and figures["test/loss"] > 0
    Image.new("RGB", (40, 30), "white").save("white.png")
    answer = json.loads(zoo("predict", elsewhere, "white.png", "--top", "4", "--json").out)
    assert answer[0]["file"] == "white.png" and len(answer[0]["top"]) == 4
    assert answer[0]["class"] in "0123456789" and answer[0]["top"][0]["probability"] == answer[0]["probability"]
    assert "white.png" in zoo("predict", elsewhere, "white.png").out


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["--learning-rate", "0.1"], "no option --learning-rate: write --lr VALUE"),
        (["--batch_size=32"], "no option --batch_size: write --batch-size VALUE"),
        (["--weight-decay", "0.1"], "no option --weight-decay: write --set recipe.weight_decay=VALUE"),
        (["--momentum", "0.9"], "write --set recipe.optimizer_args.momentum=VALUE"),
        (["epochs=3"], "no argument epochs=3: write --epochs 3"),
        (["recipe.seed=3"], "no argument recipe.seed=3: write --set recipe.seed=3"),
        (["--set", "epochs=3"], "name its section, too: --set recipe.epochs=3"),
        (["--set", "learning_rate=0.1"], "name its section, too: --set recipe.lr=0.1"),
        (["--set", "num_nodes=2"], "--set trainer.num_nodes=2"),
        (["--epoch", "3"], "--epochs"),
        (["--lr", "fast"], "recipe.lr=fast"),
        (["--optimizer", "adm"], "no optimizer 'adm': did you mean 'adam'"),
    ],
)
def test_a_setting_that_is_written_otherwise_is_named_as_it_must_be(zoo, words: list[str], right: str) -> None:
    assert zoo("train", "mlp", *words).is_one_line_error(right)


@pytest.mark.parametrize("command", ["tune", "search", "diagnose", "finetune"])
def test_every_command_that_takes_settings_of_a_recipe_names_them(zoo, command: str) -> None:
    assert zoo(command, "mlp", "--l2", "3").is_one_line_error("no option --l2: write --set recipe.l2=VALUE")


def test_common_keys_of_a_recipe_are_flags(zoo, trained: RunFolder) -> None:
    flags = ("--lr", "0.01", "--batch-size", "32", "--optimizer", "adagrad", "--weights", trained.path)
    answer = zoo("train", "softmax", *QUICK, *flags, "--set", "recipe.lr=9", "--name", "flags", "--no-test")
    assert answer.code == 0, answer.err
    recipe = yaml.safe_load(Path("runs/flags/run.yaml").read_text())["recipe"]
    assert [recipe[key] for key in ("lr", "batch_size", "optimizer", "weights")] == [0.01, 32, "adagrad", str(trained.path)]
    assert recipe["weight_decay"] == 0, "which is that of another optimizer"


@pytest.mark.parametrize(
    "setting", ["recipe.average=null", "recipe.ema_decay=0.998", pytest.param("recipe.average=swa", marks=pytest.mark.slow)]
)
def test_the_figures_after_training_are_those_of_zoo_test(zoo, setting: str) -> None:
    told = json.loads(zoo("train", "convnet", *QUICK, "--set", setting, "--name", "figures", "--json").out)
    again = json.loads(zoo("test", "figures", "--json").out)
    assert told.pop("run") == "runs/figures" and all(isinstance(value, float) for value in told.values())
    assert {key: again[key] for key in told} == told
    assert again.keys() - told.keys() == {"test/calibration_error", "classes", "confusion"}


def test_a_run_file_trains_the_same_again(zoo, trained: RunFolder) -> None:
    assert zoo("train", "--config", trained.run_file, "--name", "again").code == 0
    first, again = (torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True) for name in ("first", "again"))
    assert all(torch.equal(value, again["state_dict"][key]) for key, value in first["state_dict"].items())


def test_two_runs_that_start_together_have_a_folder_each() -> None:
    run = resolve(scan(), "softmax", {}, [])
    folders = [RunFolder.claim(None, run) for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    folders[0].run_file.write_text("")
    with pytest.raises(UserError, match="exists"):
        RunFolder.claim("softmax-digits", run)


def test_a_run_has_its_folder_though_another_removes_the_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def making(path: Path) -> Iterator[None]:
        with making_folder(path):
            path.rmdir()  # as a run does that fails at once, and finds it empty
            yield

    monkeypatch.setattr(run_folder, "making_folder", making)
    assert RunFolder.claim(None, resolve(scan(), "softmax", {}, [])).path.is_dir()


def test_a_run_can_be_read_by_others_as_other_files_can(trained: RunFolder) -> None:
    Path("plain").write_text("")
    for file in (trained.run_file, trained.metrics_file, trained.last):
        assert file.stat().st_mode == Path("plain").stat().st_mode


def test_a_command_that_is_proposed_can_be_pasted(zoo) -> None:
    answer = zoo("train", "softmax", *QUICK, "--name", "mein lauf")
    assert "zoo test 'mein lauf'" in answer.out


def test_runs_without_a_name_are_numbered(zoo) -> None:
    for _ in range(2):
        assert zoo("train", "softmax", *QUICK, "--set", "recipe.epochs=1").code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["softmax-digits", "softmax-digits-2"]


def test_pictures_in_folders_are_learned_and_recognized(zoo) -> None:
    root = class_folders(Path("pictures"), {"blue": 30, "green": 30, "red": 30})
    answer = zoo("train", "softmax", "--data", "folder", "--set", f"data.root={root}", "--set", "recipe.batch_size=8",
                 "--set", "recipe.lr=0.01", "--name", "colors")  # fmt: skip
    assert answer.code == 0, answer.err
    predictions = json.loads(zoo("predict", "colors", root / "blue", root / "red", "--json").out)
    assert len(predictions) == 60
    right = sum(Path(prediction["file"]).parent.name == prediction["class"] for prediction in predictions)
    assert right >= 58


def test_a_plugin_model_is_trained_and_its_run_tested(zoo, plugin: Path) -> None:
    listed = zoo("list").out
    assert "squeezenet-zoo 1.2.0" in listed
    assert zoo("train", "squeezenet", "--epochs", "1", "--name", "stripes").code == 0
    assert zoo("test", "stripes").code == 0


def test_a_plugin_file_is_trained_without_packaging(zoo, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\nfrom zoo import register_model\nfrom zoo.tasks.classification import Classifier\n"
        "@register_model('mine', task='classification', data='digits', recipe={'epochs': 1})\n"
        "class Mine(Classifier):\n    'Mine.'\n"
        "    def __init__(self, spec, recipe):\n        super().__init__(spec, recipe)\n"
        "        self.linear = nn.Linear(64, 10)\n"
        "    def forward(self, images):\n        return self.linear(images.flatten(1))\n"
        "    def stages(self):\n        return {'head': self.linear}\n"
    )
    assert zoo("--plugin", path, "train", "mine").code == 0
    assert zoo("test", "mine-digits").code == 0, "a run remembers its plugin"
    path.rename(tmp_path / "moved.py")
    assert zoo("test", "mine-digits").is_one_line_error("run mine-digits needs the plugin", "mine.py, which is missing")


def test_a_broken_plugin_is_one_warning_of_every_command(zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "brokenzoo-3.dist-info").mkdir(parents=True)
    (site / "brokenzoo-3.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: brokenzoo\nVersion: 3\n")
    (site / "brokenzoo-3.dist-info" / "entry_points.txt").write_text("[zoo.plugins]\nit = broken_zoo\n")
    (site / "broken_zoo.py").write_text(
        "from zoo import register_model\n@register_model('broken', task='classification', tags=None)\nclass Broken: ...\n"
    )
    monkeypatch.syspath_prepend(str(site))
    Image.new("L", (8, 8)).save("image.png")
    for command in (
        ["list"], ["data", "list"], ["show", "softmax"], ["train", "softmax", *QUICK, "--name", "first"], ["test", "first"],
        ["predict", "first", "image.png"], ["picture", "curves", "first"], ["report", "first"],
        ["export", "first", "--to", "hub"],
    ):  # fmt: skip
        answer = zoo(*command)
        warnings = [line for line in answer.err.splitlines() if line.startswith("warning:")]
        assert answer.code == 0 and len(warnings) == 1 and "brokenzoo 3 is skipped: broken_zoo.py" in warnings[0], answer


def test_doctor_finds_versions_and_faults(zoo) -> None:
    findings = {finding["name"]: finding for finding in json.loads(zoo("doctor", "--json").out)}
    assert findings["torch"]["text"] == torch.__version__.partition("+")[0] and "models" in findings["registry"]["text"]


# ---------------------------------------------------------------------------------------------- names and encodings

ODD = {"=$x_$": 20, "<script>alert(1)": 20, "a\x1b[31m\u202eb\nc": 20, "Mädchen": 20}


@pytest.fixture
def odd(zoo) -> Path:
    """Images in folders with names that others chose, and a run ``odd`` that was trained on them."""
    root = class_folders(Path("photos"), ODD)
    answer = zoo("train", "softmax", "--data", root, "--epochs", "1", "--name", "odd")
    assert answer.code == 0, answer.err
    return root


def test_names_that_others_chose_are_shown_escaped_one_row_a_row(zoo, odd: Path) -> None:
    escaped = "a\\x1b[31m\\u202eb\\nc"
    for arguments in (["test", "odd"], ["predict", "odd", odd], ["predict", "odd", odd, "--csv"], ["data", "advise", "folder",
                      "--set", f"data.root={odd}"], ["test", "odd", "--json"], ["predict", "odd", odd, "--json"]):  # fmt: skip
        answer = zoo(*arguments)
        assert answer.code == 0, answer.err
        assert all(character.isprintable() or character == "\n" for character in answer.out + answer.err), arguments
        if "--json" not in arguments and "advise" not in arguments:
            assert any(escaped in line for line in answer.out.splitlines())
    predicted = json.loads(zoo("predict", "odd", odd, "--json").out)
    assert {Path(each["file"]).parent.name for each in predicted} == set(ODD), "JSON has the names as they are"
    assert zoo("predict", "odd", odd, "-o", "odd.csv").code == 0 and zoo("test", "odd", "--csv", "classes.csv").code == 0
    for file, rows in (("odd.csv", 80), ("classes.csv", 4)):
        lines = list(csv.reader(Path(file).read_text().splitlines()))
        assert len(lines) == rows + 1 and not any(cell.startswith(("=", "@")) for line in lines for cell in line), file
        assert any("'=$x_$" in line for line in lines)
    for kind in ("confusion", "mistakes", "calibration"):
        assert zoo("picture", kind, "odd").code == 0, "a name is no mathematics"
    assert zoo("train", "no\x1b[31m\u202e\nmodel").is_one_line_error(r"no\x1b[31m\u202e\nmodel")
    assert zoo("predict", "odd", "\x1b[31m.png").is_one_line_error(r"\x1b[31m.png: no such file")


def test_the_card_of_odd_names_is_plain_markdown(zoo, odd: Path) -> None:
    assert zoo("export", "odd", "--to", "safetensors", "-o", "odd.safetensors").code == 0
    card = Path("odd.safetensors.md").read_text()
    assert "<script>" not in card and "&lt;script&gt;alert(1)" in card and "\x1b" not in card and "\u202e" not in card


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_every_command_prints_something_readable_in_any_encoding(zoo, odd: Path, monkeypatch, encoding: str) -> None:
    for arguments in (["list"], ["show", "resnet20"], ["show", "mlp", "--layers"], ["data", "list"], ["data", "show", "digits"],
                      ["data", "preview", "pydoc"], ["data", "advise", "folder", "--set", f"data.root={odd}"], ["doctor"],
                      ["watch", "odd"], ["watch", "odd", "--json"], ["test", "odd"], ["test", "odd", "--json"],
                      ["predict", "odd", odd], ["predict", "odd", odd, "--csv"], ["predict", "odd", odd, "--json"], ["picture"],
                      ["report", "odd"], ["check", "softmax"], ["train", "softmax", *QUICK], ["train", "--help"],
                      ["diagnose", "softmax"], ["train", "ä"], ["tune", "softmax", "--only", "lr"]):  # fmt: skip
        written = io.BytesIO()
        streams = {name: io.TextIOWrapper(written, encoding, write_through=True) for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            code = zoo(*arguments).code
        text = written.getvalue().decode(encoding)
        assert text.strip() and "Traceback" not in text and "?" * 2 not in text, (arguments, text)
        assert code == (2 if arguments == ["train", "ä"] else 0), (arguments, text)


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
def test_names_of_images_that_are_not_utf8_are_refused_when_the_folder_is_read(zoo, odd: Path) -> None:
    strange = os.fsdecode(b"M\xe4.png")
    Image.new("RGB", (8, 8)).save(strange)
    answer = zoo("predict", "odd", strange)
    assert answer.code == 0 and r"M\xe4.png" in answer.out, "one image is predicted whatever its name"
    assert json.loads(zoo("predict", "odd", strange, "--json").out)[0]["file"] == strange
    shutil.copy(strange, odd / "Mädchen" / strange)
    answer = zoo("train", "softmax", "--data", odd)
    assert answer.is_one_line_error(r"photos/Mädchen/M\xe4.png: its name is not UTF-8: rename it"), answer
    (odd / "Mädchen" / strange).unlink()
    (odd / "Mädchen").rename(odd / os.fsdecode(b"M\xe4dchen"))
    assert zoo("train", "softmax", "--data", odd).is_one_line_error(r"M\xe4dchen/0.png: its name is not UTF-8")
    odd.rename(os.fsdecode(b"photos\xe4"))
    answer = zoo("train", "softmax", "--data", os.fsdecode(b"./photos\xe4"))
    assert answer.is_one_line_error(r"data.root=./photos\xe4: is not UTF-8")
    assert zoo("train", "softmax", "--runs-dir", os.fsdecode(b"r\xe4")).is_one_line_error(r"r\xe4", "must be UTF-8")
    Path(os.fsdecode(b"plug\xe4.py")).write_text("")
    assert zoo("--plugin", os.fsdecode(b"plug\xe4.py"), "list").is_one_line_error(r"plug\xe4.py", "not UTF-8: rename it")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["odd"]


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "resnet2"], ["no model 'resnet2'", "'resnet20'"]),
        (["train"], ["no model was given"]),
        (["train", "mlp", "--data", "digit"], ["no data set 'digit'", "'digits'"]),
        (["train", "mlp", "--epochs", "0"], ["recipe.epochs=0"]),
        (["train", "mlp", "--epochs", "-3"], ["recipe.epochs=-3"]),
        (["train", "mlp", "--epochs", "many"], ["recipe.epochs=many", "integer"]),
        (["train", "mlp", "--set", "recipe.batch_size=0"], ["recipe.batch_size=0"]),
        (["train", "mlp", "--set", "model.hiden=3"], ["'hiden'", "'hidden_sizes'"]),
        (["train", "mlp", "--set", "model.hidden_sizes=[]"], ["model.hidden_sizes=[]"]),
        (["train", "resnet20", "--set", "model.depth=21"], ["model.depth=21", "6n + 2"]),
        (["train", "vgg11", "--set", "data.size=0"], ["32x32", "data.size=32"]),
        (["train", "mlp", "--precision", "8"], ["recipe.precision=8"]),
        (["train", "mlp", "--accelerator", "gpux"], ["gpux"]),
        (["train", "mlp", "--strategy", "ddpp"], ["no strategy", "'ddpp'", "did you mean 'ddp'"]),
        (["train", "mlp", "--devices", "999", "--set", "trainer.accelerator=cpu"], ["trainer.devices=999", "at most"]),
        (["train", "mlp", "--name", ""], ["--name is empty: give it a value or omit it"]),
        (["train", "mlp", "--data", ""], ["--data is empty: give it a value or omit it"]),
        (["data", "preview", "digits", "-o", ""], ["--output is empty"]),
        (["export", "run", "--to", ""], ["--to is empty: give it a value"]),
        (["train", "mlp", "--devices", "none"], ["none"]),
        (["train", "mlp", "--wandb", "yes"], ["wandb.mode"]),
        (["train", "mlp", "--name", "a/b"], ["plain name"]),
        (["train", "mlp", "--name", "a\x1b\nb"], ["plain name", r"a\x1b\nb"]),
        (["search", "mlp", "--over", "recipe.lr=log:1e-3..1", "--name", "a\x1bb"], ["plain name", r"a\x1bb"]),
        (["search", "mlp", "--over", "recipe.lr=log:1e-3..1", "--name", ""], ["--name is empty"]),
        (["train", "mlp", "--name", "a" * 300], ["too long"]),
        (
            ["train", "softmax", "--set", "recipe.loss=hinge", "--set", "recipe.loss_args.margin=-1"],
            ["margin=-1.0", "at least 0"],
        ),
        (["train", "softmax", "--set", "model.width=3"], ["no option of softmax 'width'", "there is none"]),
        (["train", "mlp", "--config", "absent.yaml"], ["absent.yaml", "no such file"]),
        (["train", "mlp", "--set", "data.augment=flip"], ["no augmentation 'flip'", "'hflip'"]),
        (["train", "mlp", "--set", "data.augment=crop:-1"], ["crop:-1"]),
        (["train", "mlp", "--set", "data.validation=1.5"], ["data.validation=1.5"]),
        (["train", "mlp", "--data", "folder"], ["data.root must be given"]),
        (["train", "mlp", "--data", "folder", "--set", "data.root=absent"], ["absent"]),
        (["train", "mlp", "--color"], ["--color"]),
        (["tran"], ["'tran'", "'train'"]),
        (["test", "absent"], ["no run 'absent'"]),
        (["predict", "absent", "x.png"], ["no run 'absent'"]),
        (["show", "resnet"], ["no model 'resnet'"]),
        (["check", "digit"], ["no model or data set 'digit'", "'digits'"]),
        (["data", "show", "cifar"], ["no data set 'cifar'", "'cifar10'"]),
        (["data", "preview", "digits", "--set", "recipe.lr=1"], ["recipe settings do not apply here"]),
        (["--plugin", "absent.py", "list"], ["absent.py", "no such file"]),
        (["data", "show", ""], ["no data set ''"]),
        (
            ["train", "mlp", "--set", "trainer.limit_val_batches=0.3"],
            ["val_batches=0.3: less than one of 2 batches", "0.5"],
        ),
        (
            ["train", "mlp", "--set", "trainer.limit_test_batches=0.1"],
            ["test_batches=0.1: less than one of 3 batches", "0.334"],
        ),
        (["train", "mlp", "--set", "trainer.limit_train_batches=2.5"], ["limit_train_batches", "2.5"]),
        (["train", "mlp", "--accelerator", "tpu"], ["accelerator=tpu"]),
        (["train", "mlp", "--strategy", "xla"], ["trainer.strategy", "xla"]),
        (["train", "mlp", "--set", "data.augment=crop:60000"], ["'crop:60000'", "8 pixels"]),
        (["train", "mlp", "--set", "data.size=1000000"], ["data.size=1000000", "128 images", "GB are available"]),
        (
            ["train", "mlp", "--set", "model.hidden_sizes=[1000000000]"],
            ["model.hidden_sizes=[1000000000]", "weights", "available"],
        ),
        (["train", "mlp", "--set", "model.hidden_sizes=[1000000000000000000]"], ["model.hidden_sizes=[1000000000000000000]"]),
        (["train", "mlp", "--set", "model.norm=batch", "--set", "recipe.batch_size=1"], ["batch_size=1", "a larger one"]),
        (["search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1", "--name", "a" * 300], ["a" * 300, "name too long"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_exit_two_and_nothing_written(zoo, arguments: list[str], words: list[str]) -> None:
    answer = zoo(*arguments)
    assert answer.is_one_line_error(*words), answer
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("classes", "words"), [({}, ["pictures"]), ({"cat": 0, "dog": 0}, ["pictures"]), ({"cat": 3}, ["one class"])]
)
def test_a_folder_that_cannot_be_learned_from_is_one_line(zoo, classes: dict[str, int], words: list[str]) -> None:
    Path("pictures").mkdir()
    class_folders(Path("pictures"), classes)
    answer = zoo("train", "softmax", "--data", "folder", "--set", "data.root=pictures")
    assert answer.is_one_line_error(*words), answer
    assert not Path("runs").exists()


def test_a_corrupt_image_is_named_and_only_fatal_when_asked(zoo) -> None:
    root = class_folders(Path("pictures"), {"blue": 20, "red": 20})
    (root / "blue" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    arguments = ["train", "softmax", "--data", "folder", "--set", f"data.root={root}", "--epochs", "1"]
    answer = zoo(*arguments, "--set", "data.strict=true")
    assert answer.is_one_line_error("broken.png"), answer
    answer = zoo(*arguments)
    assert answer.code == 0 and "broken.png" in answer.err
    assert zoo("predict", "softmax-folder", root / "blue" / "broken.png").is_one_line_error("broken.png")
    answer = zoo("predict", "softmax-folder", root, "--json")
    assert answer.code == 0 and len(json.loads(answer.out)) == 40 and "broken.png is skipped" in answer.err


def test_images_that_are_not_there_or_not_images_are_named(zoo, trained: RunFolder) -> None:
    assert zoo("predict", "first", "absent.png").is_one_line_error("absent.png", "no such file")
    Path("text.png").write_text("not an image")
    assert zoo("predict", "first", "text.png").is_one_line_error("text.png", "not an image")
    Path("empty").mkdir()
    assert zoo("predict", "first", "empty").is_one_line_error("empty", "no images")
    os.mkfifo("pipe.png")
    for name, kind in (("pipe.png", "a pipe"), ("/dev/zero", "a device")):
        refused = f"{name}: is {kind}, not a regular file"
        assert zoo("predict", "first", name).is_one_line_error(refused)
        assert zoo("predict", "first", "text.png", name).is_one_line_error(refused)
        assert zoo("finetune", "softmax", "--weights", name).code == 2
        assert zoo("train", "mlp", "--data", name).code == 2
        assert zoo("--plugin", name, "list").code == 2


def test_a_taken_name_is_refused_and_the_run_kept(zoo, trained: RunFolder) -> None:
    before = trained.last.read_bytes()
    assert zoo("train", "softmax", *QUICK, "--name", "first").is_one_line_error("'first' exists", "--resume first")
    assert trained.last.read_bytes() == before


class Payload:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("made",)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()  # best and last may be one file with two names
    path.write_bytes(content)
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "tampered":
        changed = bytearray(content)
        with zipfile.ZipFile(path) as archive:
            record = next(item for item in archive.infolist() if "/data/" in item.filename and item.file_size > 100)
        changed[record.header_offset + 200] ^= 255
        path.write_bytes(bytes(changed))
    elif how == "payload":
        checkpoint = torch.load(path, weights_only=True)
        torch.save({**checkpoint, "hook": Payload()}, path)
    elif how == "plain pickle":
        import pickle

        path.write_bytes(pickle.dumps(Payload()))
    elif how == "other weights":
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"]["linear.weight"] = torch.zeros(3, 3)
        torch.save(checkpoint, path)
    elif how == "foreign":
        torch.save({"state_dict": {"w": torch.zeros(1)}}, path)
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "tampered", "payload", "plain pickle", "other weights", "foreign", "empty"])
def test_a_damaged_or_hostile_checkpoint_is_refused_and_not_run(zoo, trained: RunFolder, how: str) -> None:
    Image.new("L", (8, 8)).save("image.png")
    damage(trained.best, how)
    for arguments in (["test", "first"], ["predict", "first", "image.png"]):
        answer = zoo(*arguments)
        assert answer.is_one_line_error("best.ckpt"), answer
    if how != "other weights":
        damage(trained.last, how)
        metrics = trained.metrics_file.read_bytes()
        assert zoo("train", "--resume", "first").is_one_line_error("last.ckpt")
        assert trained.metrics_file.read_bytes() == metrics
    assert not Path("made").exists()


def test_a_damaged_run_file_is_one_line(zoo, trained: RunFolder) -> None:
    trained.run_file.write_text("recipe: {epochs: none")
    assert zoo("test", "first").is_one_line_error("run.yaml")


def test_a_full_disk_keeps_the_checkpoint_before_it(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def fill_up(content, file, *rest) -> None:
        calls.append(1)
        if len(calls) > 1:
            with Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")
        save(content, file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill_up)
        answer = zoo("train", "softmax", *QUICK, "--name", "first")
    assert answer.code == 2 and "No space left" in answer.err and "zoo train --resume first" in answer.err
    assert "Traceback" not in answer.err
    torch.load("runs/first/checkpoints/last.ckpt", weights_only=True)
    assert not list(Path("runs/first/checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["train", "softmax", "--name", "new"], "environment.json"),
        (["report", "first", "--no-samples"], "report.html"),
        (["test", "first", "--csv", "classes.csv"], "classes.csv"),
        (["predict", "first", "image.png", "-o", "predictions.csv"], "predictions.csv"),
        (["picture", "curves", "first"], "first-curves.png"),
        (["data", "preview", "digits"], "digits.png"),
        (["export", "first", "--to", "safetensors"], "first.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_full_disk_is_one_line_that_names_the_file(zoo, trained: RunFolder, monkeypatch, command: list[str], file: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Image.new("L", (8, 8)).save("image.png")
    before = sorted(Path().rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr("zoo.core.files.os.fsync", fail)
        patch.setattr("zoo.training.exported.save", fail)
        answer = zoo(*command)
    assert answer.code == 2 and len(answer.err.splitlines()) == 1 and not answer.out, answer
    assert file in answer.err and "no space left on device" in answer.err.lower()
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_a_variable_of_a_launcher_that_is_no_number_is_one_line(zoo, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, "x")
    assert zoo("train", "softmax").is_one_line_error(f"{variable}=x", "must be a number")
    assert not list(Path().iterdir()) and zoo("list", "mlp").code == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root can write anywhere, and setpriv is missing")
def test_a_folder_that_cannot_be_written_is_one_line(workplace: Path) -> None:
    workplace.chmod(0o555)
    command = [sys.executable, "-c", "from zoo.cli import app; app()", "train", "softmax"]
    if os.geteuid() == 0:
        # root may write everywhere unless it gives up the capability to
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=workplace)
    workplace.chmod(0o755)
    assert answer.returncode == 2 and len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert "cannot be created" in answer.stderr and not list(workplace.iterdir())


def test_an_option_without_its_argument_names_the_help_of_its_command(zoo) -> None:
    assert zoo("train", "mlp", "--config").is_one_line_error("'--config' requires an argument", "(see: zoo train --help)")
    assert zoo("data", "preview", "digits", "-o").is_one_line_error("(see: zoo data preview --help)")


def test_a_current_folder_that_was_deleted_is_one_line(zoo, workplace: Path) -> None:
    gone = workplace / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert zoo("train", "softmax").is_one_line_error("the current folder: no such file or directory")


def test_a_runs_folder_that_is_a_file_is_one_line(zoo) -> None:
    Path("runs").write_text("in the way")
    assert zoo("train", "softmax", *QUICK).is_one_line_error("runs", "cannot be created", "not a directory")


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(zoo) -> None:
    answer = zoo("train", "mlp", "--set", "recipe.optimizer=sgd", "--set", "recipe.lr=1e9", "--set", "recipe.schedule=constant")
    assert answer.code == 2 and "recipe.lr" in answer.err and "recipe.gradient_clip_val" in answer.err
    assert "Traceback" not in answer.err


def test_a_weight_decay_that_ends_a_run_is_named_and_the_advice_followed(zoo) -> None:
    answer = zoo("train", "mlp", *QUICK, "--set", "recipe.optimizer=sgd", "--set", "recipe.weight_decay=1e20")
    assert answer.code == 2 and "recipe.weight_decay=1e+20 takes more than the weights" in answer.err
    command = answer.err.strip().partition("To start again: zoo ")[2]
    assert command.endswith("--set recipe.weight_decay=0") and zoo(*shlex.split(command)).code == 0


def test_a_preview_that_cannot_be_written_is_one_line(zoo) -> None:
    answer = zoo("data", "preview", "digits", "-o", "/proc/nowhere.png")
    assert answer.is_one_line_error("/proc/nowhere.png", "cannot be written")
