"""Weights & Biases logger: opt-in, on rank zero, and it can neither block nor stop a run."""

from __future__ import annotations

import logging
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from zoo.callbacks.bins import EDGES
from zoo.callbacks.recording import histograms, scalars
from zoo.config.recipe import WandbSettings

STEP = "trainer/step"  # not W&B's own step, under which it drops what a resumed run logs again
PREDICTIONS = 16  # rows of the table
PROBE_SECONDS = 3.0
INIT_SECONDS = 5.0
TABLE_SECONDS = 5.0
FINISH_SECONDS = 8.0
UPLOAD_BYTES_A_SECOND = 1_000_000  # the slowest connection on which to wait for the upload of a checkpoint

notices = logging.getLogger(__name__)


class WandbTracker(Logger):
    """Logs metrics, some images and, if enabled, the checkpoints of a run.

    The engine calls ``open`` before the first step and ``close`` at the end. ``finalize``, which Lightning calls after each
    fit and each test, does nothing: it would end the run too early. On ranks other than zero all methods do nothing. A
    failure of wandb is one warning, after which the tracker does nothing.

    Args:
        settings: defaults come from the environment (WANDB_PROJECT, ...) or wandb's own settings file.
        folder: of the run; wandb writes below ``folder/wandb``.
        name: of the run, as W&B shows it.
        config: the resolved Run and its environment, as plain data.
        run_id: the id of a resumed run, or None for a new one.
        directions: metric name -> "min" or "max", the value that the summary keeps.

    Attributes:
        most_classes: of a confusion matrix: W&B shows 10,000 rows of a table, one for each pair of classes.
    """

    most_classes = 100

    def __init__(
        self,
        settings: WandbSettings,
        folder: Path,
        name: str,
        config: dict[str, Any],
        run_id: str | None,
        directions: dict[str, str],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.folder = folder
        self.config = config
        self.directions = directions
        self._name = name
        self._run_id = run_id
        self._run: Any = None
        self._records: Path | None = None
        self._server = ""
        self._working = False
        self._takes_tables = True
        self._owns_service = False
        self._step = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._run_id or ""

    @property
    def run_id(self) -> str | None:
        """The id that a checkpoint keeps to resume the same W&B run. None until a new run is open."""
        return self._run_id

    @rank_zero_only
    def open(self) -> None:
        """Decide between online and offline and start the run, within a few seconds even without a server."""
        if self.settings.mode == "off":
            return
        # Wandb would send crash reports even in offline mode.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with self._failsafe("cannot be started"):
            import wandb

            # An existing service belongs to an outer program, which ends it itself.
            self._owns_service = "WANDB_SERVICE" not in os.environ
            known = wandb.setup(wandb.Settings(silent=True, quiet=True, console="off")).settings
            self._server = known.base_url
            if known.mode == "disabled":
                return
            mode, reason = self.settings.mode, None
            if known.mode in ("offline", "dryrun") or mode == "online" and (reason := _why_not_online(self._server)):
                mode = "offline"
            try:
                self._start(mode, known.project)
            except Exception as error:
                if mode == "offline":
                    raise
                reason = _one_line(error)
                self._start("offline", known.project)
            if reason:
                self._warn(f"is offline: {reason}")

    def _start(self, mode: str, known_project: str | None) -> None:
        import wandb

        settings = self.settings
        run = wandb.init(
            mode=mode,
            project=settings.project or known_project or "bestiary",
            entity=settings.entity,
            group=settings.group,
            job_type=settings.job_type,
            tags=settings.tags or None,
            name=self._name,
            id=self._run_id,
            resume="allow" if self._run_id else None,
            dir=self.folder,
            config=self.config,
            settings=wandb.Settings(
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,  # also bounds wandb's own hook at the interpreter's exit
                finish_timeout_raises=True,
                reinit="create_new",
                silent=True,
                quiet=True,
                console="off",
                save_code=False,
                disable_git=True,
            ),
        )
        self._run, self._run_id, self._records, self._working = run, run.id, Path(run.dir).parent, True
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        for metric, direction in self.directions.items():
            run.define_metric(metric, summary=direction, step_metric=STEP)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is logged when the run is opened."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log metrics at an optimizer step, by default the latest."""
        self._step = max(self._step, step or 0)
        if self._working:
            with self._failsafe("stops"):
                self._run.log({**metrics, STEP: self._step})

    @rank_zero_only
    def log_record(self, record: dict[str, Any]) -> None:
        """Log a record of a monitor: scalars, histograms, and findings as entries of the summary."""
        if not self._working:
            return
        import wandb

        self._step = max(self._step, record["step"])
        with self._failsafe("stops"):
            if record["kind"] == "finding":
                self._run.summary[f"finding/{record['name']}"] = f"{record['where']}: {record['evidence']}"
                return
            if record["kind"] == "withdrawal":
                self._run.summary[f"finding/{record['name']}"] = f"withdrawn at step {record['step']}"
                return
            pictures = {
                name: wandb.Histogram(np_histogram=(counts, EDGES)) for name, counts in histograms(record).items() if any(counts)
            }
            self._run.log({**scalars(record), **pictures, STEP: self._step})

    @rank_zero_only
    def log_predictions(self, images: Tensor, labels: list[str], predictions: list[str], probabilities: list[float]) -> None:
        """Log the first 16 rows as the table ``val/predictions``.

        Args:
            images: uint8, [N, C, H, W] with C 1 or 3, on the CPU.
            labels: true class of each image.
            predictions: predicted class of each image.
            probabilities: of the predictions, in [0, 1].
        """
        if not (self._working and self._takes_tables):
            return
        import wandb

        with self._failsafe("stops"):
            table = wandb.Table(columns=["image", "label", "prediction", "probability"])
            for image, *row in zip(images[:PREDICTIONS], labels, predictions, probabilities, strict=False):
                pixels = image.permute(1, 2, 0).numpy()
                table.add_data(wandb.Image(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)), *row)
            self._log_table("val/predictions", table)

    @rank_zero_only
    def log_monitors(self, monitors: Path, classes: Sequence[str] = (), confusion: Sequence[Sequence[int]] = ()) -> None:
        """Log the records of the monitors, and the confusion matrix of a classifier, as tables and charts, once at the end.

        Args:
            monitors: the ``monitors.jsonl`` of the run.
            classes: names, in the order of ``confusion``.
            confusion: number of test images by true class (row) and predicted class (column); empty if unknown.
        """
        if not (self._working and self._takes_tables):
            return
        from zoo.training.wandb_tables import confusion_chart, monitor_tables

        with self._failsafe("stops"):
            tables = monitor_tables(monitors)
            if confusion:
                tables["test/confusion"] = confusion_chart(classes, confusion)
            for key, table in tables.items():
                if self._takes_tables:
                    self._log_table(key, table)

    def _log_table(self, key: str, table: Any) -> None:
        """Log a table within a time limit: unlike scalars it is not queued, and wandb may wait for the server."""
        try:
            _with_timeout(TABLE_SECONDS, lambda: self._run.log({key: table, STEP: self._step}))
        except TimeoutError as error:
            self._takes_tables = False
            self._warn(f"no longer receives images and tables: {error}")

    @rank_zero_only
    def log_checkpoints(self, best: Path | None, last: Path | None) -> None:
        """If enabled, upload both files as versions "best" and "last" of one artifact of this run.

        Called once, at the end, so that storage does not fill up. Waits as long as a slow connection needs, but not if the
        server does not answer.
        """
        files = {alias: path for alias, path in (("best", best), ("last", last)) if path and path.exists()}
        if not (self._working and self.settings.artifacts and files):
            return
        online = not self._run.offline
        if online and (reason := _why_unreachable(self._server)):
            notices.warning("W&B: the checkpoints are not uploaded: %s", reason)
            return
        import wandb

        def upload() -> None:
            for alias, path in files.items():
                artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{self._name}-{self._run_id}")[-128:], type="model")
                artifact.add_file(str(path), name=path.name, skip_cache=True)
                logged = self._run.log_artifact(artifact, aliases=[alias])
                if online:
                    logged.wait()

        with self._failsafe("has no checkpoints"):
            size = sum(path.stat().st_size for path in files.values())
            _with_timeout(FINISH_SECONDS + size / UPLOAD_BYTES_A_SECOND, upload)

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """Finish the run within a time limit; what was not sent stays on disk.

        Args:
            exit_code: W&B shows runs with other codes than 0 as failed.
        """
        run, self._run = self._run, None
        if run:
            try:
                _with_timeout(FINISH_SECONDS + 2, lambda: run.finish(exit_code))
            except Exception as error:
                if self._working:
                    self._warn(f"upload is incomplete: {_one_line(error)}")
        self._working = False
        if self._owns_service:
            import wandb

            self._owns_service = False
            try:  # otherwise wandb would wait for its service at the interpreter's exit without a limit
                _with_timeout(2, wandb.teardown)
            except Exception as error:
                notices.debug("W&B: %s", _one_line(error))

    @contextmanager
    def _failsafe(self, what: str) -> Iterator[None]:
        """Turn an exception inside into one warning, and disable the tracker."""
        try:
            yield
        except Exception as error:
            self._working = False
            self._warn(f"{what}: {_one_line(error)}")

    def _warn(self, what: str) -> None:
        kept = (
            f"; records are in {self._records.parent}, to upload them later: wandb sync {self._records}" if self._records else ""
        )
        notices.warning("W&B %s%s", what, kept)


def _why_not_online(server: str) -> str | None:
    """Why an online run would ask for a key or wait, or None."""
    import wandb

    try:
        known = wandb.login(prompt=False, verify=False)
    except Exception as error:  # a key of the wrong form
        return _one_line(error)
    return _why_unreachable(server) if known else "no API key, `wandb login` sets one"


def _why_unreachable(server: str) -> str | None:
    """Why a server is unreachable, or None if it answers HTTP in time."""

    def ask() -> str | None:
        # No secret is sent, so the certificate is not verified, which is up to wandb.
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        try:
            urllib.request.urlopen(server, timeout=PROBE_SECONDS, context=unchecked).close()
        except urllib.error.HTTPError as error:
            return f"{server} returned {error.code}" if error.code >= 500 else None
        return None

    try:
        return _with_timeout(PROBE_SECONDS, ask)
    except Exception as error:
        return f"{server}: {_one_line(error)}"


def _with_timeout(seconds: float, work: Callable[[], Any]) -> Any:
    """Run ``work`` in a thread with a time limit, which name resolution and wandb's own waits lack.

    Raises:
        TimeoutError: it takes longer; the thread is abandoned and does not delay the exit.
        Exception: raised by ``work``.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:  # wandb may also call sys.exit
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no response within {seconds:.0f} s")
    if "error" in outcome:
        error = outcome["error"]
        raise error if isinstance(error, Exception) else RuntimeError(str(error))
    return outcome["result"]


def _one_line(error: Exception) -> str:
    """The first line of an error; after it wandb gives advice on settings that do not apply here."""
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
