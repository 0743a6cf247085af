"""Progress is shown with rate and time left, by a callback that any Lightning project can use."""

from __future__ import annotations

import logging
import re
import sys

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.findings import Finding
from zoo.callbacks.progress import EvaluationProgress, Line, Part, TrainingProgress


class Anybodys(L.LightningModule):
    """A module that knows nothing of the zoo."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(progress: TrainingProgress, **options) -> None:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **{"callbacks": [progress], **options},
    )  # fmt: skip
    trainer.fit(Anybodys(), DataLoader(torch.randn(12, 2), batch_size=4))


def test_a_log_gets_plain_lines_with_metrics_and_time_left(capfd: pytest.CaptureFixture) -> None:
    fit(TrainingProgress({"train/loss": 0.5, "other": 1.0}, ("train/loss", "val/loss"), terminal=False), max_epochs=2)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert lines[-1].startswith("epoch 2/2  train/loss 0.5  ") and "left" in lines[-1]
    assert "other" not in lines[-1]


def test_a_terminal_gets_a_bar_that_reaches_its_end(capfd: pytest.CaptureFixture) -> None:
    progress = TrainingProgress({"train/loss": 0.5}, ("train/loss",), terminal=True)
    fit(progress, max_epochs=2)
    told = capfd.readouterr().err
    assert "6/6" in told and "2/2" in told and "steps/s" in told
    assert progress.live is None, "the bar is closed"


def test_a_bar_shows_how_the_metric_went_from_epoch_to_epoch(capfd: pytest.CaptureFixture) -> None:
    class Improves(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            metrics["val/accuracy"] = 0.1 * trainer.current_epoch

    metrics: dict[str, float] = {}
    progress = TrainingProgress(metrics, ("val/accuracy",), terminal=True, trend="val/accuracy")
    fit(progress, max_epochs=3, callbacks=[Improves(), progress])
    assert progress.history == pytest.approx([0.0, 0.1, 0.2])
    assert "▁▅█" in capfd.readouterr().err


LINE = [
    Part("epoch 3/10", 4), Part("300/1000", 3), Part("42.5 steps/s", 6), Part("0:01:23 left", 2),
    Part("train/loss 0.1234", 1), Part("val/loss 0.4321", 7), Part("val/accuracy 0.9021", 0), Part("val/accuracy ▁▅█", 5),
]  # fmt: skip
EPOCH, LEFT, LOSS, WATCHED = "epoch 3/10", "0:01:23 left", "train/loss 0.1234", "val/accuracy 0.9021"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (140, [EPOCH, "━", "300/1000", "42.5 steps/s", LEFT, LOSS, "val/loss 0.4321", WATCHED, "val/accuracy ▁▅█"]),
        (80, [EPOCH, "300/1000", LEFT, LOSS, WATCHED]),
        (60, [LEFT, LOSS, WATCHED]),
        (40, [LOSS, WATCHED]),
        (20, [WATCHED]),
    ],
)
def test_a_narrow_terminal_leaves_out_whole_parts_and_the_watched_metric_last(width: int, expected: list[str]) -> None:
    line = Line()
    line.parts, line.done = LINE, 0.3
    shown = line.fitted(width).plain
    assert len(shown) <= width and [re.sub("━+", "━", part) for part in shown.split("  ")] == expected


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert TrainingProgress({}, ()).terminal
    monkeypatch.setenv("TERM", "dumb")
    assert not TrainingProgress({}, ()).terminal


@pytest.mark.parametrize(("width", "count"), [(None, 5), (80, 4), (30, 1)])
def test_a_line_of_a_log_is_whole_in_a_pipe_and_fits_a_dumb_terminal(capfd, monkeypatch, width: int | None, count: int) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: width is not None, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    metrics = {"train/loss": 0.1234, "val/loss": 0.4321, "val/accuracy": 0.9021}
    fit(TrainingProgress(metrics, tuple(metrics), terminal=False, trend="val/accuracy"), max_epochs=1)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "val/accuracy" in line)
    assert len(line.split("  ")) == count and len(line) <= (width or 200) and "val/accuracy 0.9021" in line


def test_the_bar_is_closed_when_a_training_fails() -> None:
    class Failing(Anybodys):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("no")

    progress = TrainingProgress({}, (), terminal=True)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[progress], max_epochs=1,
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        trainer.fit(Failing(), DataLoader(torch.randn(4, 2)))
    assert progress.live is None


DEAD = Finding("dead-units", "warning", "network.stage2", "62% of its units\nwere zero", "too large a step", "leaky-relu")
BURST = Finding("exploding-gradients", "error", "all parameters", "the norm is 1e9", "a high rate", "recipe.gradient_clip_val=1")


class Finds(L.Callback):
    """Adds findings to a diagnosis, by the step at the end of which they are there; ``says`` is printed with each."""

    def __init__(self, diagnosis: Diagnosis, found: dict[int, Finding], says: str = "") -> None:
        self.diagnosis, self.found, self.says = diagnosis, found, says

    def on_train_batch_end(self, trainer: L.Trainer, *args) -> None:
        if trainer.global_step in self.found:
            self.diagnosis.findings.append(self.found[trainer.global_step])
            self.diagnosis.steps.append(trainer.global_step)
            if self.says:
                print(self.says, file=sys.stderr)


def screen(written: str) -> list[str]:
    """What a terminal shows in the end, of text that moves up, erases whole lines, and colors."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(up[1])
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> int:
    """A terminal, as far as rich knows, and its width; Lightning says nothing there."""
    caplog.set_level(logging.ERROR, logger="lightning.pytorch")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "50", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("zoo.callbacks.progress.REFRESH_SECONDS", 0.0)
    return 50


def test_a_log_gets_a_line_for_each_finding_when_it_is_found(capfd: pytest.CaptureFixture) -> None:
    diagnosis = Diagnosis()
    progress = TrainingProgress({}, (), terminal=False, diagnosis=diagnosis)
    fit(progress, max_epochs=3, callbacks=[Finds(diagnosis, {2: DEAD, 5: BURST}), diagnosis, progress])
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("step", "epoch 3"))]
    assert lines[:2] == [
        "step 2  warning: dead-units in network.stage2: 62% of its units were zero; try: leaky-relu",
        "step 5  error: exploding-gradients in all parameters: the norm is 1e9; try: recipe.gradient_clip_val=1",
    ]
    assert len(lines) == 3 and lines[2].startswith("epoch 3/3")


def test_a_terminal_gets_the_worst_finding_under_the_bar_in_its_color(terminal: int, capfd: pytest.CaptureFixture) -> None:
    diagnosis = Diagnosis()
    progress = TrainingProgress({"train/loss": 0.5}, ("train/loss",), terminal=True, diagnosis=diagnosis)
    finds = Finds(diagnosis, {2: DEAD, 4: BURST, 5: DEAD}, says="a line of somebody else")
    fit(progress, max_epochs=2, callbacks=[finds, diagnosis, progress])
    told = capfd.readouterr().err
    yellow, red = (re.findall(rf"\x1b\[{code}m([^\x1b]*)", told) for code in (33, 31))
    assert set(yellow) == {"warning: dead-units in network.stage2: 62% of its…"}
    assert set(red) == {"error: exploding-gradients in all parameters: the…"} and told.index(yellow[0]) < told.index(red[0])
    assert max(map(len, (*yellow, *red))) == terminal
    shown = screen(told)
    assert shown[:3] == ["a line of somebody else"] * 3
    assert len(shown) == 4 and shown[3].startswith("epoch 2/2"), "at the end the bar alone is left"


def test_the_worst_finding_stays_when_a_training_breaks_off(terminal: int, capfd: pytest.CaptureFixture) -> None:
    class Fails(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args) -> None:
            if trainer.global_step == 4:
                raise RuntimeError("no")

    diagnosis = Diagnosis()
    progress = TrainingProgress({}, (), terminal=True, diagnosis=diagnosis)
    with pytest.raises(RuntimeError):
        fit(progress, max_epochs=2, callbacks=[Finds(diagnosis, {2: BURST}), Fails(), diagnosis, progress])
    shown = screen(capfd.readouterr().err)
    assert len(shown) == 2 and shown[0].startswith("epoch 1/2") and shown[1].startswith("error: exploding-gradients")


class Evaluated(Anybodys):
    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.layer(batch)

    test_step = validation_step


def test_validation_has_its_place_in_the_bar_and_nothing_of_a_test_stays(terminal: int, capfd: pytest.CaptureFixture) -> None:
    progress, testing = TrainingProgress({}, (), terminal=True), EvaluationProgress(terminal=True)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[progress, testing], max_epochs=1, num_sanity_val_steps=0,
    )  # fmt: skip
    model, data = Evaluated(), DataLoader(torch.randn(12, 2), batch_size=4)
    trainer.fit(model, data, data)
    told = capfd.readouterr().err
    assert all(f"validating {number}/3" in told for number in (1, 2, 3))
    assert screen(told)[-1].startswith("epoch 1/1") and "validating" not in screen(told)[-1]
    trainer.test(model, data, verbose=False)
    told = capfd.readouterr().err
    assert all(re.search(rf"testing.*{number}/3", told) for number in (1, 2, 3))
    assert not screen(told) and testing.live is None
