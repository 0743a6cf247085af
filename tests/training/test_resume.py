"""A run that was stopped in any way and resumed ends with the same bits as one that was not.

Trainings run in processes of their own, forked from a server that has already imported everything, and are really killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.errors import Interrupted, UserError
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.training import building, engine
from zoo.training.run_folder import RunFolder

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["zoo.training.engine", "zoo.models.resnet", "zoo.datamodules.digits"])
STEPS_AN_EPOCH, EPOCHS = 10, 3
MEASURED = {"time", "seconds", "train/samples_per_second", "steps_per_second", "data_loading", "memory"}
SETTINGS = [
    f"recipe.epochs={EPOCHS}", "recipe.batch_size=64", f"trainer.limit_train_batches={STEPS_AN_EPOCH}",
    "trainer.accelerator=cpu", "trainer.log_every_n_steps=4", "trainer.monitor_every_n_steps=6",
]  # fmt: skip
CLIPPED = ["recipe.gradient_clip_val=0.5", "recipe.accumulate_grad_batches=2"]
AUGMENTED = ["data.augment=crop:1,trivial,rand:2,9,erasing,mixup"]
# saved at every step, so that a run is killed within a row and goes on with the state that is carried
TEXT = ["model.num_layers=2", "model.dropout=0.2", "data.seq_len=16", "recipe.checkpoint_minutes=1e-9"]
CAPTIONS = ["data.num_images=640", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
CAPTIONS += ['model.encoder_options={"channels": [4, 8, 8], "norm": "batch"}']
DIALOGUE = [
    "model.hidden_size=8", "model.encoder_options={channels: [4, 8], norm: batch}", "model.dropout=0.2", "data.augment=crop:2",
    "data.num_images=40", "recipe.batch_size=4",
]  # fmt: skip

# an agent that walks by its own samples
ROOMS = [
    "data.num_houses=4", "data.num_starts=30", "model.hidden_size=8", "model.channels=[4,4]", "model.dropout=0.2",
    "model.forcing=student",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
]  # fmt: skip


class Fault(Exception):
    """What a defect in a network or in the data would raise."""


def run_once(model: str, extra: list[str], name: str, resume: bool, stop_at: int | None, how: str | None) -> str:
    """One training, stopped after so many steps in one way or another; returns how it ended."""
    of_data = AUGMENTED if scan().model(model).task == "classification" else []
    run = resolve(scan(), model, {}, [parse_setting(text) for text in [*SETTINGS, *of_data, *extra]])
    if stop_at is not None:
        _stop_after(stop_at, how)
    try:
        engine.train(scan(), run, None if resume else name, RunFolder.find(name) if resume else None)
    except (Interrupted, Fault) as error:
        return type(error).__name__
    return "finished"


def _stop_after(step: int, how: str) -> None:
    from zoo.tasks.task import Task

    hooks = {"fault before a step": "on_train_batch_start", "fault within a step": "on_after_backward"}
    hook = hooks.get(how, "on_train_batch_end")
    original = getattr(Task, hook)

    def stopping(self: Task, *arguments: Any) -> None:
        original(self, *arguments)
        if self.trainer.fit_loop.total_batch_idx == step:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise Fault

    setattr(Task, hook, stopping)


def train(
    model: str, name: str, extra: list[str], resume: bool = False, stop_at: int | None = None, how: str | None = None
) -> int:
    """``run_once`` in a process of its own; its exit code."""
    process = SERVER.Process(target=run_once, args=(model, extra, name, resume, stop_at, how))
    process.start()
    process.join()
    return process.exitcode


def run_rank(rank: int, port: int, *arguments: Any) -> str:
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "NODE_RANK": 0, "LOCAL_RANK": rank, "RANK": rank}
    os.environ.update({key: str(value) for key, value in places.items()})
    return run_once(*arguments)


def train_together(model: str, name: str, extra: list[str], resume: bool = False, stop_at: int | None = None) -> None:
    """``run_once`` in two processes, each of which gets the signal."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (model, [*extra, "trainer.devices=2", "recipe.batch_size=32"], name, resume, stop_at, "interrupt")
    ranks = [SERVER.Process(target=run_rank, args=(rank, port, *arguments)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]


def last(name: str) -> dict[str, Any]:
    return torch.load(RunFolder.find(name).last, weights_only=True)


def records(name: str, file: str) -> list[str]:
    """The lines of a file, without what clocks and memory gave."""
    lines = read_json_lines(RunFolder.find(name).path / file)
    return [
        json.dumps({key: value for key, value in line.items() if key not in MEASURED})
        for line in lines
        if line.get("name") != "slow-data-loading"
    ]


def assert_same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    else:
        assert first == second, where


def assert_same_end(reference: str, resumed: str) -> None:
    first, second = last(reference), last(resumed)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_same(first[key], second[key], key)
    for file in ("metrics.jsonl", "monitors.jsonl"):
        assert records(reference, file) == records(resumed, file)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with ``whole``, a training of mlp."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("mlp", "whole", [])
    return folder / "runs"


@pytest.fixture
def whole(uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted, "runs")


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("mlp", ["model.dropout=0.3", "model.hidden_sizes=[32,16]"]),
        ("resnet20", ["model.depth=8", "model.width=4"]),
        ("char-lstm", [*TEXT, "model.hidden_size=16"]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("softmax", []),
                ("convnet", ["data.name=shapes-labels", "data.num_images=200", "model.channels=[4,8]", "recipe.batch_size=16"]),
                ("mlp", ["data.name=shapes-numbers", "data.num_images=700", "model.hidden_sizes=[16]", "data.augment=trivial"]),
                ("vgg11", ["model.width=4"]),
                ("resnet20", ["model.width=4", "model.drop_path_rate=0.4", "recipe.gradient_checkpointing=true"]),
                ("char-transformer", [*TEXT, "model.embed_dim=16"]),
                ("captioner-attention", [*CAPTIONS, "model.dropout=0.2", "model.coverage_weight=1"]),
                ("dialogue-discriminative", DIALOGUE),
                ("lstm", ["data.name=copy-memory", "data.length=5"]),
                ("vqa-attention", ["model.dropout=0.2", "model.hidden_size=16", "data.num_images=200", "recipe.batch_size=16"]),
                ("navigator", ROOMS),
            )
        ),
    ],
)
def test_a_run_killed_within_an_epoch_and_resumed_ends_with_the_same_bits(model: str, extra: list[str]) -> None:
    train(model, "whole", extra)
    step = random.randrange(EPOCHS * STEPS_AN_EPOCH)  # any step must do
    assert train(model, "killed", extra, stop_at=step, how="kill") == -signal.SIGKILL
    assert train(model, "killed", extra, resume=True) == 0
    assert_same_end("whole", "killed")


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["epochs:1", "epochs:1+1", "backbone"])
def test_a_fine_tuning_killed_after_unfreezing_goes_on_unfrozen_with_the_same_bits(plan: str) -> None:
    extra = ["model.width=4", "recipe.weights=base.pth", f"recipe.freeze={plan}", "recipe.layer_decay=0.7"]
    begin = resolve(scan(), "resnet20", {}, [parse_setting("model.width=4"), parse_setting("recipe.seed=7")])
    torch.save(building.build_task(scan(), begin, building.open_data(scan(), begin).spec).state_dict(), "base.pth")
    train("resnet20", "whole", extra)
    step = random.randrange(STEPS_AN_EPOCH + 1, EPOCHS * STEPS_AN_EPOCH)  # after the first epoch stages thaw
    assert train("resnet20", "killed", extra, stop_at=step, how="kill") == -signal.SIGKILL
    assert train("resnet20", "killed", extra, resume=True) == 0
    assert_same_end("whole", "killed")
    begun, body = torch.load("base.pth", weights_only=True), "stage3.0.conv1.weight"
    assert torch.equal(last("killed")["state_dict"][body], begun[body]) == (plan == "backbone")


@pytest.mark.slow
def test_a_student_that_was_killed_learns_from_its_teacher_to_the_same_bits() -> None:
    train("softmax", "teacher", [])
    extra = ["model.dropout=0.3", "recipe.teacher=teacher"]
    train("mlp", "whole", extra)
    step = random.randrange(EPOCHS * STEPS_AN_EPOCH)
    assert train("mlp", "killed", extra, stop_at=step, how="kill") == -signal.SIGKILL
    assert train("mlp", "killed", extra, resume=True) == 0
    assert_same_end("whole", "killed")


@pytest.mark.slow
def test_students_in_two_processes_that_run_blocks_again_go_on_with_the_same_bits() -> None:
    train("softmax", "teacher", [])
    extra = ["model.hidden_sizes=[32,16]", "model.dropout=0.3", "recipe.teacher=teacher", "recipe.gradient_checkpointing=true"]
    train_together("mlp", "whole", extra)
    train_together("mlp", "stopped", extra, stop_at=14)
    train_together("mlp", "stopped", extra, resume=True)
    assert_same_end("whole", "stopped")


@pytest.mark.parametrize("how", ["interrupt", "fault after a step", "fault before a step"])
@pytest.mark.parametrize("step", [13, pytest.param(19, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("whole")
def test_a_run_stopped_softly_goes_on_from_that_very_step(how: str, step: int) -> None:
    train("mlp", "stopped", [], stop_at=step, how=how)
    done = last("stopped")["global_step"]
    assert done >= step - (step % STEPS_AN_EPOCH == 0), "steps were lost"
    assert train("mlp", "stopped", [], resume=True) == 0
    assert_same_end("whole", "stopped")


def test_a_fault_within_a_step_leaves_what_was_saved_before() -> None:
    """Batch norms have taken in the batch by then: half of a step must not be kept."""
    extra = ["model.depth=8", "model.width=4"]
    train("resnet20", "whole", extra)
    train("resnet20", "stopped", extra, stop_at=14, how="fault within a step")
    assert last("stopped")["global_step"] == STEPS_AN_EPOCH
    assert train("resnet20", "stopped", extra, resume=True) == 0
    assert_same_end("whole", "stopped")


@pytest.mark.slow
def test_an_epoch_that_is_resumed_in_its_middle_stays_frozen() -> None:
    extra = ["model.width=4", "recipe.freeze=epochs:2"]
    train("resnet20", "whole", extra)
    train("resnet20", "stopped", extra, stop_at=13, how="interrupt")
    assert train("resnet20", "stopped", extra, resume=True) == 0
    assert_same_end("whole", "stopped")


def test_a_run_that_patience_has_ended_is_finished() -> None:
    extra = ["recipe.early_stopping_patience=1", "recipe.lr=1e-9", "recipe.epochs=9"]
    train("softmax", "patient", extra)
    ended = last("patient")
    assert ended["epoch"] < 8
    assert train("softmax", "patient", extra, resume=True) == 0
    assert last("patient")["global_step"] == ended["global_step"]


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(["recipe.ema_decay=0.9"], marks=pytest.mark.slow),
        pytest.param(["recipe.accumulate_grad_batches=3"], marks=pytest.mark.slow),
        pytest.param(["recipe.precision=bf16"], marks=pytest.mark.slow),
        [
            "recipe.early_stopping_patience=5",
            "recipe.gradient_clip_val=0.5",
            "recipe.schedule=multistep",
            "recipe.warmup_epochs=1",
        ],
        pytest.param(["data.sampling=balanced", "recipe.monitor=balanced_accuracy"], marks=pytest.mark.slow),
        pytest.param(["recipe.class_weights=inverse-sqrt", "recipe.monitor=f1_macro"], marks=pytest.mark.slow),
        pytest.param(["recipe.optimizer=adam", "recipe.schedule=constant"], marks=pytest.mark.slow),
        pytest.param(["recipe.optimizer=lbfgs", "model.dropout=0.2", "recipe.gradient_clip_val=0.5"], marks=pytest.mark.slow),
        *(
            pytest.param([f"recipe.optimizer={name}", *CLIPPED], marks=pytest.mark.slow)
            for name in ("rmsprop", "asgd", "adafactor", "muon", "lamb")
        ),
    ],
    ids=str,
)
def test_every_feature_of_a_recipe_survives_an_interrupt(extra: list[str]) -> None:
    train("mlp", "whole", extra)
    train("mlp", "stopped", extra, stop_at=14, how="interrupt")
    assert last("stopped")["global_step"] < last("whole")["global_step"]
    assert train("mlp", "stopped", extra, resume=True) == 0
    assert_same_end("whole", "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 17, 19, 24], ids=["before its epoch", "just before its start", "at its start", "after"])
def test_an_average_of_epochs_survives_an_interrupt(step: int) -> None:
    extra = ["model.width=4", "recipe.average=swa", "recipe.swa_start=0.4", "recipe.swa_lr=0.01"]
    train("resnet20", "whole", extra)
    train("resnet20", "stopped", extra, stop_at=step, how="interrupt")
    assert ("averaging_state" in last("stopped")) == (step >= 18), "a signal is seen at the end of the next batch"
    assert train("resnet20", "stopped", extra, resume=True) == 0
    assert_same_end("whole", "stopped")
    for key in ("current_model_state", "averaging_state"):
        assert_same(last("whole")[key], last("stopped")[key], key)


@pytest.mark.slow
def test_an_average_of_epochs_in_two_processes_survives_an_interrupt() -> None:
    extra = ["model.width=4", "recipe.average=swa", "recipe.swa_start=0.4"]
    train_together("resnet20", "whole", extra)
    train_together("resnet20", "stopped", extra, stop_at=23)
    train_together("resnet20", "stopped", extra, resume=True)
    assert_same_end("whole", "stopped")


@pytest.mark.usefixtures("whole")
def test_three_stops_leave_no_trace_in_weights_and_records() -> None:
    stops = [random.randrange(first, first + 8) for first in (0, 9, 18)]  # any steps must do
    for number, step in enumerate(stops):
        assert train("mlp", "stopped", [], resume=number > 0, stop_at=step, how="interrupt") == 0
    assert last("stopped")["global_step"] < EPOCHS * STEPS_AN_EPOCH
    assert train("mlp", "stopped", [], resume=True) == 0
    assert_same_end("whole", "stopped")


@pytest.mark.slow
def test_three_stops_of_two_processes_leave_no_trace_in_weights_and_records() -> None:
    extra = ["model.dropout=0.2", "recipe.gradient_clip_val=0.5"]
    train_together("mlp", "whole", extra)
    for number, first in enumerate((0, 9, 18)):
        train_together("mlp", "stopped", extra, resume=number > 0, stop_at=random.randrange(first, first + 8))
    assert last("stopped")["global_step"] < EPOCHS * STEPS_AN_EPOCH
    train_together("mlp", "stopped", extra, resume=True)
    assert_same_end("whole", "stopped")


@pytest.mark.slow
def test_a_checkpoint_does_not_grow_with_the_epochs() -> None:
    sizes = []
    for epochs in (8, 32):  # more than a rule of the diagnosis looks back
        train("softmax", f"of-{epochs}", [f"recipe.epochs={epochs}", "trainer.limit_train_batches=3"])
        sizes.append(RunFolder.find(f"of-{epochs}").last.stat().st_size)
    assert sizes[1] - sizes[0] < 200, sizes


def test_a_finished_run_resumed_is_as_it_was() -> None:
    train("softmax", "whole", [])
    before, lines = last("whole"), len(list(read_json_lines(RunFolder.find("whole").metrics_file)))
    assert train("softmax", "whole", [], resume=True) == 0
    assert_same(before["state_dict"], last("whole")["state_dict"])
    assert len(list(read_json_lines(RunFolder.find("whole").metrics_file))) == lines


@pytest.mark.usefixtures("whole")
def test_another_seed_gives_other_weights() -> None:
    train("mlp", "other", ["recipe.seed=1"])
    with pytest.raises(AssertionError):
        assert_same_end("whole", "other")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "recipe.lr=0.5"], ["recipe.lr=0.5 (was 0.001)", "--config runs/first/run.yaml"]),
        (["--epochs", "9"], ["recipe.epochs=9 (was 3)"]),
        (["--set", "model.hidden_sizes=[3]"], ["model.hidden_sizes=[3]"]),
        (["--data", "mnist"], ["data.name=mnist"]),
        (["--devices", "2"], ["trainer.devices=2"]),
        (["--name", "second"], ["omit --name"]),
        (["--config", "runs/first/run.yaml"], ["omit --config"]),
    ],
)
def test_a_resume_with_other_options_is_refused_and_nothing_is_lost(zoo, arguments: list[str], words: list[str]) -> None:
    run = resolve(scan(), "mlp", {}, [parse_setting(text) for text in [*SETTINGS, *AUGMENTED]])
    folder = RunFolder(Path("runs/first"))
    folder.describe(run, {})
    before = sorted((path, path.read_bytes()) for path in folder.path.rglob("*") if path.is_file())
    assert zoo("train", "--resume", "first", *arguments).is_one_line_error(*words)
    assert zoo("train", "softmax", "--resume", "first").is_one_line_error("is for 'mlp', not 'softmax'")
    assert before == sorted((path, path.read_bytes()) for path in folder.path.rglob("*") if path.is_file())


def test_a_run_that_does_not_exist_is_named(zoo) -> None:
    assert zoo("train", "--resume", "nothing").is_one_line_error("no run 'nothing'")
    with pytest.raises(UserError):
        RunFolder.find("nothing")


def test_a_run_that_is_being_trained_cannot_be_resumed_beside_it(zoo) -> None:
    from zoo.training.run_folder import RunFolder

    assert zoo("train", "softmax", "--epochs", "1", "--name", "busy").code == 0
    with RunFolder.find("busy").locked():
        assert zoo("train", "--resume", "busy").is_one_line_error("busy", "another process")
    again = zoo("train", "--resume", "busy")
    assert again.code == 0 and "busy was already finished: nothing left to train" in again.out and "test/accuracy" in again.out


def test_only_a_finished_run_is_said_to_be_finished(zoo) -> None:
    quick = ("--epochs", "2", "--set", "recipe.batch_size=64", "--set", "trainer.limit_train_batches=10")
    train("softmax", "stopped", [], stop_at=14, how="interrupt")
    for name, answer in (
        ("new", zoo("train", "softmax", "--name", "new", *quick)),
        ("stopped", zoo("train", "--resume", "stopped")),
    ):
        assert answer.code == 0 and "was already finished" not in answer.out, name
        assert ("resuming stopped at step " in answer.err) == (name == "stopped")
