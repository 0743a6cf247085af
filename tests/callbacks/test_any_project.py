"""Callbacks in a project that knows nothing of the zoo: they find each other, and their numbers reach its loggers."""

from __future__ import annotations

import copy
import csv
import itertools
import os
import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from everything import trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo.callbacks
from zoo.callbacks import ActivationStatistics, Diagnosis, GradientMonitor, RecordListener, Throughput, TrainingProgress


class Learner(L.LightningModule):
    """A classifier that logs as Lightning's documentation does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def unscaled(n: int = 64) -> DataLoader:
    """Inputs that are far from normalized, which is to be found."""
    generator = torch.Generator().manual_seed(0)
    inputs = 500 * torch.randn(n, 10, generator=generator)
    return DataLoader(TensorDataset(inputs, torch.randint(0, 4, (n,), generator=generator)), 16)


def callbacks() -> list[L.Callback]:
    return [ActivationStatistics(every=2), GradientMonitor(every=2), Diagnosis(classes=4)]


class Listens(RecordListener):
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_record(self, trainer: L.Trainer, record: dict[str, Any]) -> None:
        self.records.append(record)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_they_find_each_other_in_any_order_and_tell_each_finding_once(order, capsys) -> None:
    parts = callbacks()
    trainer(*(parts[place] for place in order), max_epochs=2).fit(Learner(), unscaled())
    found = parts[2].findings
    assert "input-not-normalized" in {finding.name for finding in found}
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split("  ", 1)[1] for line in told] == [finding.one_line for finding in found]


def test_a_diagnosis_without_a_monitor_says_so_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(Diagnosis(), max_epochs=2).fit(Learner(), unscaled())
        said = [each for each in caught if "no monitors" in str(each.message)]
        assert len(said) == 1 and "GradientMonitor()" in str(said[0].message)
        trainer(GradientMonitor(), Diagnosis()).fit(Learner(), unscaled())
    assert len([each for each in caught if "no monitors" in str(each.message)]) == 1


def test_findings_are_told_by_one_of_those_who_could(capfd) -> None:
    for shown in (True, False):
        parts = callbacks()
        progress = TrainingProgress({}, (), terminal=False, diagnosis=parts[2])
        if not shown:
            parts[2].verbose = False
        trainer(*parts, *[progress][: int(shown)]).fit(Learner(), unscaled())
        out, err = capfd.readouterr()
        assert out.count("input-not-normalized") == 0 and err.count("input-not-normalized") == int(shown)


def test_a_listener_gets_the_records_that_go_to_a_function(capsys) -> None:
    listens, written = Listens(), []
    trainer(listens, Throughput(every=2, write=written.append)).fit(Learner(), unscaled())
    assert listens.records == written and [record["step"] for record in written] == [0, 1, 2, 3]


def test_csv_has_numbers_and_findings_in_the_order_of_steps() -> None:
    parts = callbacks()
    fit = trainer(*parts, max_epochs=2, logger=CSVLogger("logs"), log_every_n_steps=1)
    fit.fit(Learner(), unscaled(), unscaled())
    rows = list(csv.DictReader(Path(fit.logger.log_dir, "metrics.csv").read_text().splitlines()))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(steps) and set(steps) == set(range(8))
    recorded = {int(row["step"]) for row in rows if row["activations/network.0/std"]}
    assert recorded == {0, 1, 2, 4, 6, 7} == {int(row["step"]) for row in rows if row["gradients/norm"]}
    assert max(int(row["findings"] or 0) for row in rows) == len(parts[2].findings) > 0


@pytest.mark.skipif(not find_spec("tensorboard") and not find_spec("tensorboardX"), reason="TensorBoard is not installed")
def test_tensorboard_has_findings_as_text() -> None:
    fit = trainer(*callbacks(), logger=TensorBoardLogger("logs"))
    fit.fit(Learner(), unscaled())
    events = b"".join(path.read_bytes() for path in Path(fit.logger.log_dir).glob("events*"))
    assert b"findings/input-not-normalized" in events and b"gradients/norm" in events


def test_a_logger_that_takes_text_gets_findings_as_text() -> None:
    class Writer:
        def __init__(self) -> None:
            self.texts: dict[str, str] = {}

        def add_text(self, name: str, text: str, step: int) -> None:
            self.texts[name] = text

    class Board(TensorBoardLogger):
        """Without the library, which need not be installed."""

        def __init__(self) -> None:
            self.writer, self.steps = Writer(), []

        experiment = property(lambda self: self.writer)
        name = version = save_dir = log_dir = ""
        log_hyperparams = log_graph = save = finalize = after_save_checkpoint = lambda self, *args, **kwargs: None

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.steps.append(step)

    board, parts = Board(), callbacks()
    trainer(*parts, logger=board).fit(Learner(), unscaled())
    assert board.writer.texts == {f"findings/{finding.name}": str(finding) for finding in parts[2].findings}


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb_offline_gets_numbers_and_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_DIR": os.getcwd()}.items():
        monkeypatch.setenv(name, value)
    parts, logger = callbacks(), WandbLogger(project="any", offline=True, save_dir=os.getcwd())
    trainer(*parts, logger=logger).fit(Learner(), unscaled())
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert summary["gradients/norm"] > 0 and summary["findings"] == len(parts[2].findings)
    assert "findings/text" in summary


@pytest.mark.parametrize("again", [lambda parts: parts, copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
def test_used_again_they_start_afresh(again) -> None:
    torch.manual_seed(0)
    start, listens = Learner(), Listens()
    results = []
    parts = callbacks()
    trainer(*copy.deepcopy(parts), max_epochs=1000, max_steps=3).fit(copy.deepcopy(start), unscaled())
    for _ in range(2):
        listens.records = []
        trainer(*parts, listens, max_epochs=2).fit(copy.deepcopy(start), unscaled())
        for record in listens.records:
            record["seconds"] = 0
        results.append((listens.records, parts[2].findings, parts[2].steps))
        parts = again(parts)
    assert results[0] == results[1] and results[0][0] and results[0][1]


@pytest.mark.slow
def test_a_long_training_does_not_thin_the_records_of_a_short_one_after_it() -> None:
    monitor, listens = Throughput(every=1), Listens()
    trainer(monitor, listens, max_epochs=600, limit_train_batches=1).fit(Learner(), unscaled())
    assert len(listens.records) <= 500
    listens.records = []
    trainer(monitor, listens, max_epochs=2).fit(Learner(), unscaled())
    assert len(listens.records) == 8


def test_every_public_name_can_be_imported() -> None:
    for name in zoo.callbacks.__all__:
        assert getattr(zoo.callbacks, name).__name__ == name
