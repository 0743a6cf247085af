"""Lightning's own loggers as trackers, by name; a plugin registers a function that builds another one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from zoo.callbacks.bins import EDGES
from zoo.callbacks.recording import histograms, scalars
from zoo.core.errors import UserError, one_line
from zoo.registry.entry import register_logger
from zoo.registry.registry import Registry
from zoo.tasks.samples import Samples
from zoo.training.tracking.media import captioned
from zoo.training.tracking.rendering import code, csv_table, depth_figure, markdown, markdown_table
from zoo.training.tracking.tables import DepthChart, Table, confusion_table, monitor_tables
from zoo.training.tracking.tracker import Tracker


@register_logger("csv")
def csv(folder: Path, run_id: str | None, step: int) -> Logger:
    """Comma-separated values in csv/from-STEP/metrics.csv of the run's folder: a file for the start and one for each resume."""
    return CSVLogger(folder, name="csv", version=f"from-{step}")


@register_logger("tensorboard")
def tensorboard(folder: Path, run_id: str | None, step: int) -> Logger:
    """TensorBoard's event files in the run's folder, with samples and histograms."""
    # purge: what was logged after the checkpoint is logged again
    purge_step = step + 1 if step else None
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step)


@register_logger("mlflow")
def mlflow(folder: Path, run_id: str | None, step: int) -> Logger:
    """MLflow, where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say; by default in mlflow.db beside the run's folder."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # seconds; by default
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # two minutes, and seven times
    uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not uri:  # MLflow's store of plain files is no longer maintained
        runs = folder.parent.absolute()
        uri, artifacts = f"sqlite:///{runs / 'mlflow.db'}", (runs / "mlartifacts").as_uri()
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "bestiary"
    return MLFlowLogger(experiment, folder.name, uri, artifact_location=artifacts, run_id=run_id)


class LightningTracker(Tracker):
    """Gives any Lightning logger what it takes: metrics and the scalars of records, and images if it has ``log_image``."""

    def __init__(self, name: str, logger: Logger, config: dict[str, Any], run_id: str | None, step: int) -> None:
        self.title = name
        self.logger: Any = logger
        self.config = config
        self._run_id, self._step = run_id, step

    @property
    def run_id(self) -> str | None:
        return self._run_id

    def open(self) -> None:
        self.logger.log_hyperparams(self.config)
        self._run_id = str(self.logger.version)

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        self._step = max(self._step, step or 0)
        self.logger.log_metrics(metrics, self._step)

    def log_record(self, record: dict[str, Any]) -> None:
        if record["kind"] not in ("finding", "withdrawal"):
            self.log_metrics(scalars(record), record["step"])

    def log_samples(self, key: str, samples: Samples) -> None:
        if hasattr(self.logger, "log_image"):
            shown = [(image, text) for image, text in captioned(samples) if image]
            if shown:
                images, captions = map(list, zip(*shown, strict=True))
                self.logger.log_image(key, images, step=self._step, caption=captions)

    def close(self, exit_code: int) -> None:
        self.logger.finalize("failed" if exit_code else "success")


class TensorBoardTracker(LightningTracker):
    """Adds histograms, findings and tables as texts, statistics over depth as pictures, and samples as images and texts."""

    most_classes = 20  # a confusion matrix is a table of text

    def log_record(self, record: dict[str, Any]) -> None:
        super().log_record(record)
        if record["kind"] == "finding":
            text = f"**{record['name']}** in {markdown(record['where'])}: {markdown(record['evidence'])}"
            self.logger.experiment.add_text("findings", text, record["step"])
        for name, counts in histograms(record).items():
            if any(counts):
                self._add_histogram(name, np.array(counts), record["step"])

    def _add_histogram(self, name: str, counts: np.ndarray, step: int) -> None:
        edges = np.array(EDGES)
        centers = (edges[:-1] + edges[1:]) / 2
        self.logger.experiment.add_histogram_raw(
            name, edges[0], edges[-1], int(counts.sum()), float(counts @ centers), float(counts @ centers**2),
            edges[1:], counts, step,
        )  # fmt: skip

    def log_monitors(self, monitors: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
        for key, table in tables_of(monitors, classes, confusion, self.most_classes):
            if isinstance(table, DepthChart):
                self.logger.experiment.add_figure(key, depth_figure(table), self._step)
            else:
                self.logger.experiment.add_text(key, markdown_table(table), self._step)

    def log_samples(self, key: str, samples: Samples) -> None:
        for number, (image, text) in enumerate(captioned(samples)):
            if image:
                self.logger.experiment.add_image(f"{key}/{number}", np.array(image.convert("RGB")), self._step, dataformats="HWC")
            shown = markdown(text) if image else code(text)
            self.logger.experiment.add_text(f"{key}/{number}", shown, self._step)


class MLflowTracker(LightningTracker):
    """Adds findings as tags, and as artifacts tables, statistics over depth and samples: CSV, PNG and text files."""

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        super().log_metrics({mlflow_name(name): value for name, value in metrics.items()}, step)

    def log_record(self, record: dict[str, Any]) -> None:
        super().log_record(record)
        if record["kind"] == "finding":
            text = f"{record['where']}: {record['evidence']}"
            self.logger.experiment.set_tag(self.logger.run_id, f"finding.{record['name']}", text[:5000])

    def log_samples(self, key: str, samples: Samples) -> None:
        for number, (image, text) in enumerate(captioned(samples)):
            if image:
                self.logger.experiment.log_image(self.logger.run_id, image, f"{key}/{number:02}.png")
            self.logger.experiment.log_text(self.logger.run_id, text, f"{key}/{number:02}.txt")

    def log_monitors(self, monitors: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
        client, run_id = self.logger.experiment, self.logger.run_id
        for key, table in tables_of(monitors, classes, confusion, self.most_classes):
            if isinstance(table, DepthChart):
                client.log_figure(run_id, depth_figure(table), f"{key}.png")
            else:
                client.log_text(run_id, csv_table(table), f"{key}.csv")


def tables_of(
    monitors: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]], most_classes: int
) -> Iterator[tuple[str, Table | DepthChart]]:
    """The tables of a finished run by the keys that W&B has them under, too."""
    yield from monitor_tables(monitors).items()
    if confusion and len(classes) <= most_classes:
        yield "test/confusion", confusion_table(classes, confusion)


def mlflow_name(metric: str) -> str:
    """The name of a metric as MLflow takes it: without other signs than it allows, and as a path without empty parts."""
    parts = re.sub(r"[^\w\-. /]", "_", metric, flags=re.ASCII).split("/")
    return "/".join(part for part in parts if part.strip("."))


def lightning_tracker(
    registry: Registry, name: str, folder: Path, config: dict[str, Any], run_id: str | None, step: int
) -> LightningTracker:
    """Build the tracker of a registered logger.

    Raises:
        UserError: its library is not installed, or it cannot be built.
    """
    entry = registry.find("logger", name)
    try:
        logger = entry.load()(folder, run_id, step)
    except ModuleNotFoundError as error:
        extra = f": pip install 'bestiary[{name}]'" if entry.module == __name__ else ""
        raise UserError(f"logger {name}: {one_line(error, 100)}{extra}") from error
    except Exception as error:  # of whatever library
        raise UserError(f"logger {name}: {type(error).__name__}: {one_line(error, 200)}") from error
    kinds = {TensorBoardLogger: TensorBoardTracker, MLFlowLogger: MLflowTracker}
    kind = next((tracker for of, tracker in kinds.items() if isinstance(logger, of)), LightningTracker)
    return kind(name, logger, config, run_id, step)
