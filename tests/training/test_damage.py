"""A file of a run that is damaged is refused in one line that names it and the key, and nothing of the run changes."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zoo.api.trained import load
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training.building import load_task
from zoo.training.checkpoints import KEY, read_checkpoint
from zoo.training.run_folder import RunFolder
from zoo.training.saving import Checkpoints
from zoo.training.selection import Selection

QUICK = ("--epochs", "2", "--set", "trainer.limit_train_batches=3", "--set", "trainer.accelerator=cpu")
QUICK += ("--set", "trainer.limit_val_batches=1", "--set", "trainer.limit_test_batches=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of softmax on digits with Adam, whose first epoch is the best."""
    from zoo.config.resolution import resolve
    from zoo.config.settings import parse_setting
    from zoo.training import engine

    path = tmp_path_factory.mktemp("trained") / "run"
    path.mkdir()
    settings = [f"recipe.epochs={QUICK[1]}", "recipe.optimizer=adamw", "recipe.lr=0.003", *QUICK[3::2]]
    run = resolve(scan(), "softmax", {}, [parse_setting(text) for text in settings])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Selection, "is_best", lambda self, metrics, standard_error: first.pop())
        first = [False, True]
        engine.train(scan(), run, folder=RunFolder(path), progress=False)
    return path


@pytest.fixture
def folder(trained: Path) -> RunFolder:
    shutil.copytree(trained, "runs/run")
    return RunFolder(Path("runs/run"))


def contents(folder: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock"}


def change(path: Path, where: str, value: Any) -> None:
    """Set a value in a checkpoint by its dotted keys, or drop it."""
    checkpoint = torch.load(path, weights_only=True)
    *outer, key = (int(part) if part.isdecimal() else part for part in where.split("/"))
    inner = checkpoint
    for part in outer:
        inner = inner[part]
    if value is Ellipsis:
        del inner[key]
    else:
        inner[key] = value(inner[key]) if isinstance(value, Callable) else value
    torch.save(checkpoint, path)


def advice(text: str) -> list[str]:
    """The arguments of the command at the end of a message."""
    return shlex.split(re.findall(r"\bzoo ([a-z].*)$", text.strip())[-1])


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: torch.full_like(weight, value)


def named(value: Any) -> str:
    """The name of a parameter in a test's, which is the same in every process."""
    return "changed" if isinstance(value, Callable) else str(value)


IMAGE = f"{KEY}/spec"
WEIGHT = "state_dict/linear.weight"


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        *(((f"{IMAGE}/height"), value, "spec.height=") for value in (-5, 0, 10**9, 2.5, float("nan"), None, "8")),
        (f"{IMAGE}/mean", "x", "spec.mean="), (f"{IMAGE}/mean", ["x"], "spec.mean.0="),
        (f"{IMAGE}/mean", [float("inf")], "spec.mean"),
        (f"{IMAGE}/std", [0.0], "spec.std="), (f"{IMAGE}/classes", [1, 2], "spec.classes.0=1"),
        (f"{IMAGE}/kind", "picture", "spec.kind='picture'"), (f"{IMAGE}/crop", {"mode": "cut"}, "mode"),
        (f"{KEY}/spec", 3, "spec: "), (f"{KEY}/run", [], "run: "), (f"{KEY}/run/model", {}, "run.model: "),
        (f"{KEY}/run/model/name", "mlp", "does not fit mlp"), (f"{KEY}/run/model/name", "nothing", "no model 'nothing'"),
        (f"{KEY}/run/model/widht", 3, "widht"), (f"{KEY}/run/recipe/lr", -1, "run.recipe.lr: "),
        (f"{KEY}/records", {"metrics.jsonl": -1}, "records.metrics.jsonl: "),
        ("state_dict", 3, "state_dict is no dictionary"), ("state_dict", None, "state_dict is no dictionary"),
        (WEIGHT, None, "state_dict.linear.weight is NoneType"), (WEIGHT, ..., "linear.weight"),
        (WEIGHT, filled(float("nan")), "state_dict.linear.weight is not finite"),
        (WEIGHT, filled(float("inf")), "state_dict.linear.weight is not finite"),
        (WEIGHT, lambda weight: weight.to(torch.complex64), "state_dict.linear.weight is complex"),
        (WEIGHT, lambda weight: weight.to_sparse(), "state_dict.linear.weight is no dense tensor"),
        (WEIGHT, lambda weight: weight.to("meta"), "state_dict.linear.weight is without values"),
        (WEIGHT, lambda weight: weight[:3], "does not fit softmax: size mismatch for linear.weight"),
    ],
    ids=named,
)  # fmt: skip
def test_contents_are_checked_before_anything_is_built_of_them(folder: RunFolder, where: str, value: Any, named: str) -> None:
    change(folder.best, where, value)
    with pytest.raises(UserError) as raised:
        load_task(scan(), read_checkpoint(folder.best), folder.best)
    told = str(raised.value)
    assert told.startswith(str(folder.best)) and named in told and "\n" not in told


@pytest.mark.parametrize("key", ["epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"])
def test_what_a_training_goes_on_from_is_checked_before_it_begins(folder: RunFolder, key: str) -> None:
    for value in (..., None, "x", -1):
        shutil.copy(folder.best, folder.last)
        change(folder.last, key, value)
        with pytest.raises(UserError, match=rf"last\.ckpt is damaged: {key}: .*zoo train --resume run --checkpoint best$"):
            read_checkpoint(folder.last, training=True)


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("optimizer_states/0/param_groups/0/params", [0, 1, 2, 3], "cannot be restored: ValueError: "),
        ("optimizer_states", ..., "optimizer_states: field required"),
        ("lr_schedulers", [{}], "cannot be restored: "),
        ("loops", {}, "cannot be restored: "),
        (WEIGHT, filled(float("nan")), "state_dict.linear.weight is not finite"),
        (f"{KEY}/run/model/name", "mlp", "model"),
    ],
    ids=named,
)
def test_a_resume_that_fails_changes_nothing_and_its_advice_works(
    zoo, folder: RunFolder, where: str, value: Any, named: str
) -> None:
    change(folder.last, where, value)
    before = contents(folder)
    for _ in range(2):  # the first one must not make the second succeed
        answer = zoo("train", "--resume", "run")
        assert answer.is_one_line_error(f"error: {folder.last}", named), answer
        assert contents(folder) == before
    again = zoo(*advice(answer.err))
    assert again.code == 0 and "from best.ckpt" in again.err
    assert all(zoo("test", "run", "--checkpoint", which).code == 0 for which in ("best", "last"))


@pytest.mark.parametrize(
    ("value", "named"),
    [(lambda state: state[:3], "exp_avg is [3, 64] for a parameter of [10, 64]"), (..., "exp_avg missing")],
)
def test_a_state_that_does_not_fit_its_parameter_is_refused_before_the_first_step(
    zoo, folder: RunFolder, value: Any, named: str
) -> None:
    shutil.copy(folder.best, folder.last)  # of the first epoch of two
    change(folder.last, "optimizer_states/0/state/0/exp_avg", value)
    before = contents(folder)
    answer = zoo("train", "--resume", "run")
    assert answer.is_one_line_error(f"error: {folder.last} cannot be restored", f"optimizer_states: {named}"), answer
    assert contents(folder) == before and zoo(*advice(answer.err)).code == 0


def test_only_a_best_checkpoint_that_there_was_is_missed(capsys: pytest.CaptureFixture) -> None:
    """A run that is interrupted in its first epoch has none yet."""
    checkpoints = Checkpoints(RunFolder(Path("runs/run")), dict, [], Selection("val/loss", "min"), 10.0)
    checkpoints.load_state_dict(checkpoints.state_dict())
    assert not capsys.readouterr().err
    checkpoints.load_state_dict({"best": 0.5, "loss": 0.5, "extreme": 0.5})
    assert "best.ckpt: no such checkpoint: the best of the epochs that follow takes its place" in capsys.readouterr().err


def test_a_file_of_zeros_is_refused_with_advice_that_works(zoo, folder: RunFolder) -> None:
    folder.best.write_bytes(bytes(1000))
    answer = zoo("test", "run")
    assert answer.is_one_line_error(f"error: {folder.best} is damaged", "to replace it: zoo train --resume run")
    again = zoo(*advice(answer.err))
    assert again.code == 0 and "the best of the epochs that follow takes its place" in again.err
    assert zoo("test", "run").code == 0
    for file in (folder.best, folder.last):
        file.write_bytes(bytes(1000))
    answer = zoo("train", "--resume", "run")
    assert answer.is_one_line_error(f"error: {folder.last} is damaged", "to start again: zoo train --config runs/run/run.yaml")
    assert zoo(*advice(answer.err)).code == 0


@pytest.mark.parametrize("lost", [("best",), ("last",), ("best", "last")], ids=str)
def test_lost_checkpoints_are_told_with_advice_that_works(zoo, folder: RunFolder, lost: tuple[str, ...]) -> None:
    for which in lost:
        folder.checkpoint(which).unlink()
    if len(lost) == 2:
        folder.checkpoints.rmdir()
    for which in lost:
        answer = zoo("test", "run", "--checkpoint", which)
        assert answer.is_one_line_error(f"run run has no {which}.ckpt", "zoo train --resume run")
    assert zoo("train", "--resume", "run").code == 0
    assert all(zoo("test", "run", "--checkpoint", which).code == 0 for which in ("best", *set(lost) - {"last"}))


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("model", {}, "model: value error, must have a name"), ("model", ..., "model: field required"),
        ("model", {"name": 3}, "model: "), ("data", {"size": 3}, "data: "), ("recipe", 0, "recipe: "),
        ("recipe", {"lr": "x"}, "recipe.lr: "),
    ],
    ids=named,
)  # fmt: skip
def test_damaged_settings_are_told_by_file_and_key(folder: RunFolder, section: str, value: Any, named: str) -> None:
    tree = yaml.safe_load(folder.run_file.read_text())
    tree = {key: each for key, each in {**tree, section: value}.items() if each is not ...}
    folder.run_file.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=rf"^runs/run/run\.yaml is damaged: {named}"):
        folder.read_run()


def test_a_resume_tells_which_records_were_lost(zoo, folder: RunFolder) -> None:
    lost = "lost records of before step 6; to record all again: zoo train --config runs/run/run.yaml --name NEW"
    assert "lost records" not in zoo("train", "--resume", "run").err
    folder.metrics_file.unlink()
    assert f"warning: metrics.jsonl {lost}" in zoo("train", "--resume", "run").err
    folder.monitors_file.write_bytes(folder.monitors_file.read_bytes()[:100])
    assert f"warning: metrics.jsonl, monitors.jsonl {lost}" in zoo("train", "--resume", "run").err


def test_a_network_by_the_name_of_a_run_that_cannot_be_read_is_told_so(zoo, folder: RunFolder) -> None:
    folder.run_file.write_text("model: [")
    assert zoo("diagnose", "run").is_one_line_error("runs/run/run.yaml: not YAML")
    folder.run_file.unlink()
    assert zoo("finetune", "run").is_one_line_error("runs/run is not a run: it holds no run.yaml")


@pytest.mark.parametrize("file", ["metrics.jsonl", "monitors.jsonl"])
def test_a_folder_in_place_of_records_is_refused_with_advice_that_works(zoo, folder: RunFolder, file: str) -> None:
    place = folder.path / file
    place.unlink()
    place.mkdir()
    for _ in range(2):
        answer = zoo("train", "--resume", "run")
        assert answer.is_one_line_error(f"error: {place}: is a folder, not a file: move it away")
    place.rename(folder.path / "away")
    again = zoo("train", "--resume", "run")
    assert again.code == 0 and f"warning: {file} lost records" in again.err


def test_a_name_that_a_kill_left_is_free(zoo) -> None:
    Path("runs/run").mkdir(parents=True)
    Path("runs/run/.lock").touch()
    answer = zoo("train", "--resume", "run")
    assert answer.is_one_line_error("runs/run is not a run", "start again with --name run")
    assert zoo("train", "softmax", "--name", "run", *QUICK).code == 0
    assert zoo("train", "softmax", "--name", "run", *QUICK).is_one_line_error("run 'run' exists", "--resume run")
    Path("runs/mine").mkdir()
    Path("runs/mine/notes.txt").write_text("keep")
    assert zoo("train", "softmax", "--name", "mine", *QUICK).is_one_line_error("is no run: choose another --name")


def test_a_folder_that_another_process_has_just_claimed_is_left_alone(zoo) -> None:
    folder = RunFolder(Path("runs/run"))
    folder.path.mkdir(parents=True)
    with folder.locked():
        assert zoo("train", "softmax", "--name", "run", *QUICK).is_one_line_error("being trained by another process")
        assert folder.path.is_dir()


def test_readers_use_what_can_be_read_of_records_and_count_the_rest(zoo, folder: RunFolder) -> None:
    strange = [b"5", b"\xff", b"[" * 50_000, b'{"step": "x", "epoch": 1}', b'{"step": 1%s, "epoch": 1}' % (b"0" * 400)]
    odd = b'{"step": 1, "epoch": 0, "time": 1.0, "val/loss": NaN, "val/accuracy": 1%s, "test/accuracy": "high"}' % (b"0" * 400)
    for file in (folder.metrics_file, folder.monitors_file):
        file.write_bytes(b"\n".join([*strange, odd, b""]) + file.read_bytes())
    (folder.path / "environment.json").write_bytes(b'{"started": NaN, "parameters": "x", "device": [1]}')
    for command in ("report run --no-samples", "watch run --once", "watch run --json", "picture curves run", "test run"):
        answer = zoo(*command.split())
        assert answer.code == 0 and "Traceback" not in answer.err, (command, answer.err)
    page = Path("runs/run/report.html").read_text()
    assert "5 unreadable lines of metrics.jsonl skipped" in page and "5 unreadable lines of monitors.jsonl skipped" in page
    run = load("run")
    assert [record["step"] for record in run.history()][:2] == [1, 3] and run.metrics["test/accuracy"] > 0
    assert all(isinstance(value, float) for value in run.metrics.values())
    assert zoo("train", "--resume", "run").code == 0
