"""Artifacts of a run at W&B: what it was made from, and its trained weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.core.json_lines import read_json_lines
from zoo.training.checkpoints import KEY, read_checkpoint
from zoo.training.exported import SUFFIX, write_exported
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.lineage import MODEL, Origin, artifact_name, sha256_of_file

LOADING = 'zoo.load("wandb:ENTITY/PROJECT/{}:{}") loads it.'


def origin_artifact(origin: Origin) -> Any:
    """An artifact whose content depends on what identifies the origin: equal ones are one version, whichever runs use it."""
    import wandb

    artifact = wandb.Artifact(artifact_name(origin.name), type=origin.type, metadata=origin.about)
    with artifact.new_file(f"{origin.type}.json", mode="w", encoding="utf-8") as file:
        json.dump(origin.about, file, sort_keys=True, indent=2)
    for name, path in origin.files.items():
        artifact.add_file(path, name=f"files/{name}", skip_cache=True, policy="immutable")
    return artifact


def record(run: Any, artifact: Any, aliases: Sequence[str] = (), is_input: bool = False) -> None:
    """Write an artifact into the record of a W&B run, from which it is uploaded, now or by ``wandb sync``, without waiting.

    W&B's own calls write none online; the one that declares an input also waits for the upload, and refuses to offline.
    """
    artifact.finalize()
    run._interface.publish_artifact(run, artifact, [*aliases, "latest"], is_user_created=is_input, use_after_commit=is_input)


@dataclass(frozen=True)
class Trained:
    """A file of trained weights to upload.

    Attributes:
        aliases: ``best``, ``last`` or both.
        metadata: the monitored metric, test metrics, classes, step, epoch, model, data and the SHA-256 of the file.
    """

    aliases: tuple[str, ...]
    file: Path
    metadata: dict[str, Any]

    def artifact(self, name: str) -> Any:
        import wandb

        about, (metric, value) = self.metadata, next(iter(self.metadata["metrics"].items()), ("", None))
        result = f", {metric} {value:.4g}" if value is not None else ""
        loading = LOADING.format(name, self.aliases[0])
        text = f"{about['model']} trained on {about['data']}: epoch {about['epoch']}{result}. {loading}"
        artifact = wandb.Artifact(name, type=MODEL, description=text, metadata=about)
        policy = "immutable" if self.file.suffix == SUFFIX else "mutable"  # a checkpoint of the run may be replaced before a sync
        artifact.add_file(str(self.file), name=f"model{self.file.suffix}", skip_cache=True, policy=policy)
        return artifact


def trained_files(folder: RunFolder, monitor: str, prefix: str, whole: bool, into: Path) -> list[Trained]:
    """The last and the best weights of a run, in files whose content depends on the weights alone, or the whole checkpoints.

    The best comes last: W&B calls the version that was logged last the latest. Equal ones are one version.

    Args:
        monitor: metric that selected the best.
        prefix: of names of weights, as ``write_exported`` takes it.
        whole: whether checkpoints are uploaded.
        into: where files are written.
    """
    trained: dict[str, Trained] = {}
    for alias, path in (("last", folder.last), ("best", folder.best)):
        if path.exists():
            checkpoint, file = read_checkpoint(path), path
            if not whole:
                file = into / f"{alias}{SUFFIX}"
                write_exported(checkpoint, file, prefix)
            digest = sha256_of_file(file)
            metadata = _describe(checkpoint, folder, monitor, folder.test_metrics() if alias == "best" else {})
            former = trained.pop(digest, None)
            aliases = (alias, *former.aliases) if former else (alias,)
            trained[digest] = Trained(aliases, file, {**metadata, "sha256": digest})
    return list(trained.values())


def _describe(checkpoint: dict[str, Any], folder: RunFolder, monitor: str, tested: dict[str, float]) -> dict[str, Any]:
    run, step = checkpoint[KEY]["run"], checkpoint["global_step"]
    at_step = [record for record in read_json_lines(folder.metrics_file) if record.get("step") == step]
    validated = {
        key: value
        for record in at_step
        for key, value in record.items()
        if key.startswith("val/") and isinstance(value, (int, float))
    }
    first = {monitor: validated[monitor]} if monitor in validated else {}
    return {
        "model": run["model"].get("network", run["model"]["name"]),
        "data": run["data"]["name"],
        "metric": monitor,
        "metrics": {**first, **validated, **tested},
        "classes": list(checkpoint[KEY]["spec"].get("classes", ())),
        "epoch": checkpoint["epoch"] + 1,
        "step": step,
    }
