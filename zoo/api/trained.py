"""A trained model with what it can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.api.inference import Inference
from zoo.core.errors import UserError, unknown
from zoo.registry.registry import current_registry

if TYPE_CHECKING:
    import lightning as L

    from zoo.analysis.probes import Probes
    from zoo.callbacks.findings import Finding
    from zoo.config.run import Run, TrainerSettings
    from zoo.export.export import Exported
    from zoo.tasks.task import Task
    from zoo.training.calibrating import Calibration
    from zoo.training.engine import TestResult, TrainResult
    from zoo.training.exported import ExportedFile
    from zoo.training.run_folder import RunFolder
    from zoo.training.weights.published import PublishedNetwork

CHECKPOINTS = ("best", "last")
PROBED = "classification"  # task of the data for a probe
RECORDS = ("activations", "finding", "gradients", "throughput", "withdrawal")
Settings = Mapping[str, object] | Sequence[str]


def load(
    name: str | Path,
    *,
    checkpoint: str = "best",
    weights: str | Path = "",
    settings: Settings = (),
    runs: str | Path | None = None,
    tta: bool = False,
) -> TrainedRun:
    """Load a trained model.

    Args:
        name: of a run, its path, a trained model of the zoo, as in ``resnet20.digits``, what ``export`` wrote as
            ``safetensors`` or ``hub``, ``wandb:ENTITY/PROJECT/NAME:ALIAS`` for a model at W&B, or a network with published
            weights and classes, as in ``efficientnet-lite0``, ``torchvision:resnet50``, ``timm:resnet18.a1_in1k`` or
            ``hf-hub:OWNER/NAME``.
        checkpoint: ``best`` or ``last``.
        weights: of a published network, a file in place of its own.
        settings: of a published network, as in ``{"recipe.weights_key": "model_ema"}``.
        runs: folder of the runs; by default ``ZOO_RUNS`` or ``runs``.
        tta: test-time augmentation: whether ``test`` and ``predict`` average probabilities over mirrored and shifted images, as
            far as the training did the same to images.

    Raises:
        UserError: there is none.

    Examples:
        >>> run = zoo.load("mlp-digits")
        >>> run.predict(["a.jpg", "b.jpg"])
    """
    from zoo.config.settings import parse_settings
    from zoo.training.run_folder import runs_in
    from zoo.training.sources import find_trained

    with runs_in(runs):
        return TrainedRun(find_trained(name, weights, parse_settings(settings, ("model", "recipe"))), checkpoint, tta=tta)


class TrainedRun(Inference):
    """A trained model: what ``zoo.train``, ``zoo.finetune`` and ``zoo.load`` return. In a notebook it shows itself.

    Attributes:
        name: of the run, or the file.
        path: of the run's folder, or of the file; for a trained model of the zoo its name.
        config: its settings, resolved.
        entry: its model in the registry.
        outcome: of training in this process.
        tta: whether predictions are averaged over views.
    """

    def __init__(
        self,
        source: RunFolder | ExportedFile | PublishedNetwork,
        checkpoint: str = "best",
        outcome: TrainResult | None = None,
        tta: bool = False,
    ) -> None:
        if checkpoint not in CHECKPOINTS:
            raise unknown("checkpoint", checkpoint, CHECKPOINTS)
        self.source, self.checkpoint, self.outcome, self.tta = source, checkpoint, outcome, tta
        self.registry = current_registry()
        self.config: Run = source.read_run()
        name = self.config.model["name"]
        if name not in self.registry.models:
            raise UserError(
                f"{self.path} needs the model {name!r}, which a program or notebook registered: run its definition first, or "
                "give its file to the command with --plugin FILE"
            )
        self.entry = self.registry.model(name)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the monitors found during training in this process; ``report`` has those of earlier ones."""
        return self.outcome.findings if self.outcome else ()

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def name(self) -> str:
        return self.path.resolve().name.removesuffix(".safetensors")

    @property
    def file(self) -> Path:
        """The file that holds the weights.

        Raises:
            UserError: the run has none yet.
        """
        return self.source.checkpoint(self.checkpoint)

    @property
    def metrics(self) -> dict[str, float]:
        """Test metrics as in ``test/accuracy``: of the end of the training, or of a trained model; none for an exported file."""
        # only the best checkpoint was tested
        return self.source.test_metrics() if self.checkpoint == "best" else {}

    @cached_property
    def model(self) -> Task:
        """The network with its trained weights, in evaluation mode, on the GPU if there is one: a LightningModule.

        Raises:
            UserError: the file is damaged, or does not fit the network.
        """
        task = self._open()
        import torch

        return task.to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_published(self) -> bool:
        """Whether it is a network with published weights, and no run or file of yours."""
        from zoo.training.weights.published import PublishedNetwork

        return isinstance(self.source, PublishedNetwork)

    def _open(self) -> Task:
        task = self._open_network()
        if self.tta:
            from zoo.training.test_time import average_views

            # published networks were trained on photographs, as folders hold
            average_views(self.registry, task, self.entry.name, {"name": "folder"} if self.is_published else self.config.data)
        return task

    def _open_network(self) -> Task:
        if self.is_published:
            return self.source.open()
        file = self.file  # before torch is imported
        from zoo.training.building import load_task
        from zoo.training.exported import read_trained

        return load_task(self.registry, read_trained(file), file)[0]

    # ------------------------------------------------------------------ use

    def test(self, data: str | Path | None = None, *, settings: Settings = ()) -> TestResult:
        """Evaluate on a test split.

        Args:
            data: a data set with the same classes, or a folder or table of images; by default that of the training.
            settings: of data and trainer, as in ``{"trainer.devices": 2}``.

        Returns:
            Metrics by name, as in ``test/accuracy``, the same on any number of devices; ``details`` has the confusion matrix and
            metrics of each class, and with ``tta`` the number of ``views``.

        Raises:
            UserError: the data has other classes, or cannot be read.
        """
        from zoo.config.settings import parse_settings

        section, trainer = self._test_section(data, parse_settings(settings, ("data", "trainer")))
        task = self._open()  # a network of its own: testing changes its metrics and its device
        if self.is_published:
            section = self.source.data_options(task.spec, section)
        from zoo.training import engine
        from zoo.training.data_record import DataRecord

        tested = engine.test(self.registry, task, self.config, section, trainer, DataRecord.read(self.path))
        if self.tta:
            tested.details["views"] = len(task.views)
        return tested

    def _test_section(
        self, data: str | Path | None, settings: list[dict[str, dict[str, Any]]], probed: str = ""
    ) -> tuple[dict[str, Any], TrainerSettings]:
        """The data section of a Run for a test on its own data or other, and the trainer settings, as ``resolve_test`` does."""
        from zoo.config.resolution import resolve_test

        if self.is_published and not data:
            raise UserError(f"{self.source.path} was not trained here: name data with its classes, as in --data photos/")
        return resolve_test(self.registry, self.config, data, settings, probed)

    def probe(self, data: str | Path | None = None, *, settings: Settings = (), neighbors: int = 20) -> Probes:
        """Measure what the features are worth for a data set: test accuracy of k nearest neighbors and of a linear classifier.

        Args:
            data: of any classes, or a folder or table of images; by default that of the training, if it has classes.
            settings: of the data, as in ``{"data.size": 160}``.
            neighbors: k, whose votes are weighted by similarity.

        Raises:
            UserError: the data cannot be read, or the model has no features.
        """
        from zoo.config.settings import parse_settings

        self.require_classifier("probe")
        if not data and self.task != PROBED:
            raise UserError(f"{self.name} was trained for {self.task}: probe it on images with classes, as in --data photos/")
        section, _ = self._test_section(data, parse_settings(settings, ("data",)), PROBED)
        if "augment" in section:
            section = {**section, "augment": "none"}
        task = self.model
        if self.is_published:
            section = self.source.data_options(task.spec, section)
        from zoo.analysis.probes import probe
        from zoo.training.data_record import DataRecord

        return probe(self.registry, task, self.config, section, DataRecord.read(self.path), neighbors)

    def calibrate(self, *, undo: bool = False) -> list[Calibration]:
        """Fit a temperature on the validation images, by which probabilities are calibrated from then on (Guo et al. 2017).

        It divides the logits, so that no predicted class changes, and is kept in the checkpoints.

        Args:
            undo: go back to the probabilities of the training.

        Returns:
            For the checkpoints ``best`` and ``last``, the temperature, and the loss and calibration error before and after.

        Raises:
            UserError: it is not a run of a classifier, has no validation images, or no temperature fits them.
        """
        folder = self._folder("calibrate")
        self.require_classifier("tune --calibrate", "classification")
        from zoo.training.calibrating import calibrate

        found = calibrate(self.registry, folder, undo)
        self.__dict__.pop("model", None)  # which has the former temperature
        return found

    # ------------------------------------------------------------------ records

    def history(self) -> list[dict[str, float]]:
        """The recorded metrics in order, each with ``step`` and ``epoch``: ``train/loss``, ``val/accuracy`` and so on.

        Raises:
            UserError: it is an exported file, which has no records.
        """
        from zoo.core.json_lines import read_json_lines
        from zoo.training.records import is_number, to_float

        records = read_json_lines(self._folder("history").metrics_file)
        return [
            {name: to_float(value) for name, value in record.items() if value is None or is_number(value)}
            for record in records
            if record.get("step") is not None and record.get("epoch") is not None
        ]

    def monitor_records(self, kind: str = "activations") -> list[dict[str, Any]]:
        """The records of a monitor in order, with ``step``, ``epoch`` and the statistics of each layer, parameter or step.

        Args:
            kind: ``activations`` (see ``zoo.callbacks.ActivationStatistics``), ``gradients``, ``throughput``, ``finding``, or
                ``withdrawal`` of a finding that later epochs contradict.

        Raises:
            UserError: it is an exported file, which has no records.
        """
        if kind not in RECORDS:
            raise unknown("kind of record", kind, RECORDS)
        from zoo.core.json_lines import read_json_lines

        records = read_json_lines(self._folder("monitor_records").monitors_file)
        return [record for record in records if record.get("kind") == kind]

    def report(self, file: str | Path | None = None, *, samples: bool = True) -> Path:
        """Write an HTML report of the run: metrics, findings, curves, predictions, activations and gradients.

        Args:
            file: by default ``report.html`` in the run's folder.
            samples: include predictions, which need the checkpoint and the data.

        Returns:
            The file.
        """
        from zoo.report.page import write_report

        folder = self._folder("report")
        path = Path(file) if file else folder.path / "report.html"
        write_report(self.registry, [folder], path, samples)
        return path

    def export(self, to: str = "safetensors", file: str | Path = "", *, license: str = "") -> Exported:
        """Write the network of an image classifier, verified against the original, with a model card.

        Args:
            to: ``safetensors``, ``hub``, ``onnx`` or ``torch-export``.
            file: or folder, for ``hub``; by default the name of the run with the suffix of the format, in the current folder.
            license: for the model card; by default that of a trained model of the zoo.

        Returns:
            The ``file``, its ``card``, and how far its predictions agree with the original.

        Raises:
            UserError: the model is for another task, or the format does not support it.
        """
        from zoo.export.formats import find_format, output_file

        format = find_format(to)
        self.require_classifier("export")
        path = output_file(format, str(file), self.name)
        from zoo.export.export import export
        from zoo.training.exported import IncludedFile

        license = license or (self.source.license if isinstance(self.source, IncludedFile) else "")
        return export(self.registry, self.file, format, path, self.name, self.metrics, license)

    @property
    def task(self) -> str:
        """The task of its training, as in ``multilabel``."""
        return self.registry.task_of(self.entry.name, self.config.data["name"])

    def require_classifier(self, command: str, task: str = "") -> None:
        """Check without importing torch that the model is a network of images, and its training that of ``task``, if given.

        Raises:
            UserError: it is not.
        """
        if self.entry.task != "classification" or self.task != (task or self.task):
            raise UserError(f"zoo {command} is for classification, and {self.name} ({self.entry.name}) is for {self.task}")

    def resume(
        self, *, settings: Settings = (), checkpoint: str = "", callbacks: Sequence[L.Callback] = (), progress: bool = True
    ) -> TrainedRun:
        """Continue an interrupted training exactly where it was saved.

        Args:
            checkpoint: ``best`` or ``last`` to go on from; by default the latest.
            callbacks: of your own, those that it was started with.
            settings: of devices and trackers, which do not change what is computed, as in ``{"trainer.accelerator": "cpu"}``.

        Raises:
            UserError: it is an exported file, or another setting would change.
        """
        from zoo.api.training import require_callbacks, resume
        from zoo.config.settings import parse_settings

        layers = parse_settings(settings or ())
        given = require_callbacks(callbacks)
        return resume(self._folder("resume"), layers, checkpoint=checkpoint, callbacks=given, progress=progress)

    def _folder(self, method: str) -> RunFolder:
        from zoo.training.run_folder import RunFolder

        if not isinstance(self.source, RunFolder):
            needs = f"{method} needs the records of a run"
            raise UserError(f"{self.path} is {self.source.kind}: {needs}{self.source.remedy}")
        return self.source

    # ------------------------------------------------------------------ display

    def __repr__(self) -> str:
        metrics = "".join(f", {name} {value:.4f}" for name, value in self.metrics.items())
        if self.is_published:
            return f"<published network {self.path}>"
        return f"<run {self.name}: {self.config.network} on {self.config.data_title}{metrics}>"

    def _repr_html_(self) -> str:
        from zoo.report.notebook import render

        return render(self.source, self.config, self.metrics)
