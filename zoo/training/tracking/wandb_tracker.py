"""Weights & Biases as a tracker: its mode is chosen before the first step, and nothing waits for its server without a limit."""

from __future__ import annotations

import fnmatch
import gzip
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from zoo.callbacks.bins import EDGES
from zoo.callbacks.recording import histograms, scalars
from zoo.config.run import WandbSettings
from zoo.core.errors import first_line
from zoo.tasks.samples import Samples
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.lineage import Origin, artifact_name
from zoo.training.tracking.tables import confusion_table, monitor_tables
from zoo.training.tracking.tracker import Tracker, notices
from zoo.training.tracking.wandb_artifacts import origin_artifact, record, trained_files
from zoo.training.tracking.wandb_server import PROJECT, why_not_online, within
from zoo.training.tracking.worst import selected, totals, worst

STEP = "trainer/step"  # not W&B's own step, under which it drops what a resumed run logs again
ROW_BYTES = 64  # each row of the history has its time and step, and takes more
INIT_SECONDS = 5.0
TABLE_SECONDS = 5.0
FINISH_SECONDS = 8.0
TEARDOWN_SECONDS = 2.0
LOST_SECONDS = 2.0  # to finish a run whose server did not respond before
UPLOAD_SECONDS = 5.0
UPLOAD_BYTES_A_SECOND = 1_000_000  # the slowest connection on which to wait for the upload of trained weights

Artifacts = Sequence[tuple[Any, tuple[str, ...]]]  # each with its aliases


def _leave_to_agent() -> None:
    """Do nothing when the server stops a trial of a sweep: the agent sends a signal, and a second one would end it unsaved."""


class WandbTracker(Tracker):
    """Logs metrics, records of the monitors, samples, what a run was made from and, if enabled, its trained weights.

    Args:
        settings: defaults come from the environment (WANDB_PROJECT, ...) or wandb's own settings file.
        folder: of the run; wandb writes below ``folder/wandb``.
        name: of the run, as W&B shows it.
        config: the resolved Run and its environment, as plain data.
        run_id: the id of a resumed run, or None for a new one.
        directions: metric name -> "min" or "max", the value that the summary keeps.
        prefix: of the names of weights, which a library's network loses when they are uploaded.
    """

    title = "W&B"
    most_classes = 100  # W&B shows 10,000 rows of a table, one for each pair of classes

    def __init__(
        self,
        settings: WandbSettings,
        folder: Path,
        name: str,
        config: dict[str, Any],
        run_id: str | None,
        directions: dict[str, str],
        prefix: str = "",
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.config = config
        self.directions = directions
        self.prefix = prefix
        self._name = name
        self._run_id = run_id
        self._run: Any = None
        self._records: Path | None = None
        self._server = ""
        self._owns_service = False
        self._step = 0
        self._first: int | None = None
        self._is_linked = False
        self._recorded: set[str] = set()  # names of layers and parameters

    @property
    def closing_seconds(self) -> float:
        """Within which ``close`` ends."""
        return self._finish_seconds + TEARDOWN_SECONDS

    @property
    def _finish_seconds(self) -> float:
        return LOST_SECONDS if self.is_lost else FINISH_SECONDS

    @property
    def run_id(self) -> str | None:
        """The id that a checkpoint keeps to resume the same W&B run. None until a new run is open."""
        return self._run_id

    def open(self) -> None:
        """Decide between online and offline and start the run, within a few seconds even without a server."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb would send crash reports even in offline mode
        import wandb

        # An existing service belongs to an outer program, which ends it itself.
        self._owns_service = "WANDB_SERVICE" not in os.environ
        known = wandb.setup(wandb.Settings(silent=True, quiet=True)).settings
        self._server = known.base_url
        if known.mode == "disabled":
            return
        mode, reason = self.settings.mode, None
        if known.mode in ("offline", "dryrun") or mode == "online" and (reason := why_not_online(self._server)):
            mode = "offline"
        try:
            self._start(mode, known)
        except Exception as error:
            if mode == "offline":
                raise
            reason = first_line(error)
            self._start("offline", known)
        if reason:
            self.warn(f"is offline: {reason}")

    def _start(self, mode: str, known: Any) -> None:
        """Start the run; what is not given here, W&B takes from its environment variables and its settings file: ``known``."""
        import wandb

        settings = self.settings
        former = sum(file.stat().st_size for file in self._files()) // ROW_BYTES if self._run_id else 0
        run = wandb.init(
            mode=mode,
            project=settings.project or known.project or PROJECT,
            entity=settings.entity,
            group=settings.group or known.run_group or known.sweep_id,
            job_type=settings.job_type or known.run_job_type or ("sweep" if known.sweep_id else None),
            tags=settings.tags or None,
            name=known.run_name or self._name,
            id=self._run_id,
            resume="allow" if self._run_id else None,
            dir=self._place,
            config=self.config,
            settings=wandb.Settings(
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,  # also bounds wandb's own hook at the interpreter's exit
                finish_timeout_raises=True,
                reinit="create_new",
                stop_fn=_leave_to_agent if known.sweep_id else None,
                silent=True,
                quiet=True,
            ),
        )
        self._run, self._run_id, self._records = run, run.id, Path(run.dir).parent
        self._first = former if former > run.step else None
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        for metric, direction in self.directions.items():
            run.define_metric(metric, summary=direction, step_metric=STEP)

    def _log(self, values: dict[str, Any]) -> None:
        """Log a row, at an own step of W&B after those of all former parts of the run.

        An offline part counts from zero again, and W&B drops what comes at a step that it has.
        """
        first, self._first = self._first, None
        self._run.log({**values, STEP: self._step}, step=first, commit=True)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._step = max(self._step, step or 0)
        if self._run:
            self._log(metrics)

    def log_record(self, record: dict[str, Any]) -> None:
        """Log as much of it as ``inside`` says; findings become entries of the summary."""
        if not self._run:
            return
        if record["kind"] == "finding" and record.get("severity") == "error":
            self._alert(record["name"], f"{record['where']}: {record['evidence']}. Try: {record['try']}")
        if self.settings.inside == "off":
            return
        self._step = max(self._step, record["step"])
        if record["kind"] == "finding":
            self._run.summary[f"finding/{record['name']}"] = f"{record['where']}: {record['evidence']}"
        elif record["kind"] == "withdrawal":
            self._run.summary[f"finding/{record['name']}"] = f"withdrawn at step {record['step']}"
        else:
            found = list(worst(record))
            metrics = {each.metric: each.value for each in found}
            self._log({**self._inside(record), **metrics})
            if found:
                self._run.summary.update({f"{each.metric}/where": each.where for each in found})

    def log_failure(self, text: str) -> None:
        self._alert("failed", text)

    def _alert(self, what: str, text: str) -> None:
        """Have W&B send a message, by mail or Slack as its user has set."""
        if self._run:
            self._run.alert(f"{what}: {self._name}"[:63], text, level="ERROR")  # 64 are refused

    def _inside(self, record: dict[str, Any]) -> dict[str, Any]:
        """Totals of a record, and statistics and histograms of the layers that were asked for."""
        if self.settings.inside != "full":
            return scalars(totals(record))
        import wandb

        self._recorded |= {name for key in ("layers", "parameters") for name in record.get(key, ())}
        record = selected(record, self.settings.layers or ("*",))
        counted = {name: counts for name, counts in histograms(record).items() if any(counts)}
        drawn = {name: wandb.Histogram(np_histogram=(counts, EDGES)) for name, counts in counted.items()}
        return {**scalars(record), **drawn}

    def log_samples(self, key: str, samples: Samples) -> None:
        """Log tables: classified images, one row a question or caption of an image, and texts."""
        if self._run:
            from zoo.training.tracking.wandb_tables import sample_table

            if table := sample_table(samples):
                self._log_table(key, table)

    def log_monitors(self, monitors: Path, classes: Sequence[str] = (), confusion: Sequence[Sequence[int]] = ()) -> None:
        """Log tables, charts and, as an artifact, all records."""
        if not self._run:
            return
        from zoo.training.tracking.wandb_tables import as_wandb, confusion_chart

        unmatched = [glob for glob in self.settings.layers if not fnmatch.filter(self._recorded, glob)]
        if unmatched and self._recorded:
            notices.warning("wandb.layers: no layer or parameter that was recorded matches %s", ", ".join(unmatched))
        tables = {}
        if self.settings.inside != "off":
            tables.update({key: as_wandb(table) for key, table in monitor_tables(monitors).items()})
        if confusion and len(classes) <= self.most_classes:
            tables["test/confusion"] = confusion_chart(confusion_table(classes, confusion))
        for key, table in tables.items():
            self._log_table(key, table)
        if self.settings.inside != "off" and monitors.exists() and monitors.stat().st_size:
            self._within_limit(lambda: self._log_all_records(monitors))

    def _log_all_records(self, monitors: Path) -> None:
        """Log the records of every layer and parameter as an artifact, compressed."""
        import wandb

        packed = Path(self._run.dir) / f"{monitors.name}.gz"
        with monitors.open("rb") as lines, gzip.open(packed, "wb", compresslevel=3) as file:
            shutil.copyfileobj(lines, file)
        description = "Statistics of every layer and parameter on the recorded steps: pandas.read_json(FILE, lines=True)"
        artifact = wandb.Artifact(self._artifact_name("inside"), type="monitors", description=description)
        artifact.add_file(str(packed), name=packed.name, skip_cache=True, policy="immutable")
        self._run.log_artifact(artifact)

    def _artifact_name(self, *kind: str) -> str:
        return artifact_name(self._name, str(self._run_id), *kind)

    def _log_table(self, key: str, table: Any) -> None:
        self._within_limit(lambda: self._log({key: table}))

    def _within_limit(self, log: Callable[[], None]) -> None:
        """Log files within a time limit: unlike scalars they are not queued, and wandb may wait for the server.

        After the first that took longer, no others are logged.
        """
        if self.is_lost:
            return
        try:
            within(TABLE_SECONDS, log)
        except TimeoutError as error:
            self.is_lost = True
            self.warn(f"no longer receives images and tables: {error}")

    def log_origins(self, find: Callable[[], Sequence[Origin]]) -> None:
        """Declare what the run was made from as its inputs; one that cannot be found leaves the rest of the run as it is."""
        if not self._run:
            return
        try:
            for origin in find():
                self._use(origin)
        except Exception as error:
            self.warn(f"has no lineage: {first_line(error)}")

    def _use(self, origin: Origin) -> None:
        if origin.artifact and not self._run.offline:
            with suppress(Exception):  # it is not uploaded yet, was deleted, or the server does not answer
                within(TABLE_SECONDS, lambda: self._run.use_artifact(origin.artifact, type=origin.type))
                return
        record(self._run, origin_artifact(origin), is_input=True)

    def upload_seconds(self, folder: RunFolder) -> float:
        """As long as a slow connection needs."""
        if self.settings.artifacts == "off":
            return 0.0
        size = sum(path.stat().st_size for path in (folder.best, folder.last) if path.exists())
        return UPLOAD_SECONDS + size / UPLOAD_BYTES_A_SECOND

    def log_trained(self, folder: RunFolder) -> None:
        """If enabled, upload the trained weights as versions "best" and "last" of one artifact, and link the best.

        Once at the end, so that storage does not fill up, and unless the server does not answer.
        """
        if not self._run or self.settings.artifacts == "off":
            return
        monitor, is_whole = self.config.get("environment", {}).get("monitor", ""), self.settings.artifacts == "checkpoint"
        files = trained_files(folder, monitor, self.prefix, is_whole, Path(self._run.dir))
        artifacts = [(each.artifact(self._artifact_name()), each.aliases) for each in files]
        if self._run.offline or self.is_lost:
            self._record(artifacts)
            return
        try:
            # a moment before the guest gives up without knowing why
            self._upload(artifacts, time.monotonic() + self.upload_seconds(folder) - 0.5)
        except (TimeoutError, ConnectionError):
            self.is_lost = True
            self._record(artifacts)
            raise

    def _record(self, artifacts: Artifacts) -> None:
        """Leave the upload to ``wandb sync``."""
        for artifact, aliases in artifacts:
            record(self._run, artifact, aliases)

    def _upload(self, artifacts: Artifacts, end: float) -> None:
        """Upload artifacts and link the last.

        Raises:
            TimeoutError: it is not done at ``end``, by the monotonic clock.
            ConnectionError: the server is unreachable.
        """
        for artifact, aliases in artifacts:
            self._until(end, partial(self._run.log_artifact, artifact, aliases=list(aliases)))
            self._until(end, artifact.wait)
        if self.settings.link and artifacts:
            self._link(artifacts[-1][0], end)

    def _until(self, end: float, work: Callable[[], Any]) -> None:
        within(max(0.0, end - time.monotonic()), work, self._server)

    def _link(self, best: Any, end: float) -> None:
        try:
            self._until(end, lambda: self._run.link_artifact(best, self.settings.link))
            self._is_linked = True
        except Exception as error:
            self.is_lost |= isinstance(error, (TimeoutError, ConnectionError))
            self.warn(f"has not linked the model: {first_line(error)}")

    def close(self, exit_code: int = 0) -> None:
        """Finish the run within a time limit; what was not sent stays on disk."""
        run, self._run = self._run, None
        try:
            if run:
                within(self._finish_seconds, lambda: run.finish(exit_code))
        finally:
            self._end_service()

    def _end_service(self) -> None:
        """End wandb's service, for which it would wait at the interpreter's exit without a limit."""
        if self._owns_service:
            import wandb

            self._owns_service = False
            with suppress(Exception):
                within(TEARDOWN_SECONDS, wandb.teardown)

    def _files(self) -> list[Path]:
        """What all parts of this run, started and resumed, wrote."""
        folders = self._parent().glob(f"*run-*-{self._run_id}")
        return sorted(file for folder in folders for file in folder.glob("*.wandb"))

    def _parent(self) -> Path:
        """Where W&B puts the folders of runs."""
        return self._records.parent if self._records else self._place / "wandb"

    @cached_property
    def _place(self) -> Path:
        """``WANDB_DIR`` or the folder of the run. Where the former cannot be written, wandb would take a temporary folder."""
        if not (chosen := os.environ.get("WANDB_DIR")):
            return self.folder
        with suppress(OSError):
            Path(chosen).mkdir(parents=True, exist_ok=True)
        if os.access(chosen, os.W_OK | os.X_OK):
            return Path(chosen)
        notices.warning("WANDB_DIR=%s cannot be written: W&B's records are in %s", chosen, self.folder / "wandb")
        return self.folder

    def remains(self) -> str:
        if not self._records:
            return ""
        former = [file.parent for file in self._files() if not file.with_suffix(".wandb.synced").exists()]
        parts = [part for part in former if part.name.startswith("offline-") and part != self._records]
        online = () if self._records.name.startswith("offline-") else ("--include-online",)  # else wandb skips it
        command = shlex.join(["wandb", "sync", *online, *map(str, [*parts, self._records])])
        return f"records are in {self._records.parent}, to upload them later: {command}{self._remaining_link()}"

    def _remaining_link(self) -> str:
        """How to link the model once it is uploaded; empty unless that is to be done."""
        if not self.settings.link or self._is_linked:
            return ""
        project = "/".join(part for part in (self.settings.entity, self.settings.project or PROJECT) if part)
        program = f"import wandb; wandb.Api().artifact('{project}/{self._artifact_name()}:best').link('{self.settings.link}')"
        return f" && {shlex.join(['python', '-c', program])}"
