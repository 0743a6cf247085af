"""What a run was made from, for trackers that show it: its data, and the weights that it started with."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.config.run import Run
from zoo.core.files import expanded
from zoo.core.fingerprint import bytes_of, sha256_of_state
from zoo.registry.registry import current_registry
from zoo.tasks.task import Task
from zoo.tasks.weights import Weights
from zoo.training.data_record import SPLITS, DataRecord
from zoo.training.run_folder import RunFolder
from zoo.training.sources import exported_file, find_trained
from zoo.training.weights.backbones import find_backbone, is_published
from zoo.training.weights.wandb_models import MODEL, PREFIX, is_wandb_model, wandb_path

DATASET = "dataset"  # a type of artifacts, as W&B names them, beside MODEL
NOT_CONTENT = {"root", "path", "augment", "size", "memory_gb", "keep", "workers"}  # options of where and how data is read


@dataclass(frozen=True)
class Origin:
    """Data or weights that a run began with.

    Attributes:
        name: of the data, the network or the run.
        type: ``DATASET`` or ``MODEL``.
        about: plain data that identifies it: origins are the same if it is equal.
        files: name -> path of what may be logged with it.
        artifact: its name at the tracker, if it is there.
    """

    name: str
    type: str
    about: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    artifact: str = ""


def data_origins(run: Run, data: Any, record: DataRecord) -> list[Origin]:
    """The data of a run: its fingerprint, the samples of each split and the classes.

    Args:
        record: of its files; empty where it does not come in files.
    """
    name = run.data["name"]
    place = next((run.data[key] for key in ("root", "path") if run.data.get(key)), "") if record.files else ""
    about = {
        "data": name,
        "fingerprint": _fingerprint(run, data, record),
        "samples": {split: data.split_size(split) for split in SPLITS if split in data.splits},
        "classes": list(getattr(data.spec, "classes", ())),
    }
    files = _files(data) if run.wandb.log_data else {}
    return [Origin(Path(place).absolute().name if place else name, DATASET, about, files)]


def _fingerprint(run: Run, data: Any, record: DataRecord) -> str:
    """Changes with the content of the data, not with where it lies: of its files, or of the options that it is drawn by."""
    digest = hashlib.sha256()
    if record.files:
        for name, file in sorted(record.files.items()):
            digest.update(f"{name}\0{file.digest.hex()}\0{file.text.hex()}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()
    options = {key: value for key, value in run.data.items() if key not in NOT_CONTENT}
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    for split in SPLITS:
        if isinstance(data.splits.get(split), torch.Tensor):  # text
            digest.update(bytes_of(data.splits[split]))
    return digest.hexdigest()


def _files(data: Any) -> dict[str, str]:
    """The image files of the data, by their paths below its folder."""
    paths = [path for split in data.splits.values() for path in getattr(split, "files", None) or ()]
    return {name: path for name, path in zip(data.names(paths), paths, strict=True) if os.path.isfile(path)} if paths else {}


def weight_origins(run: Run, task: Task, weights: Weights | None) -> list[Origin]:
    """The weights that a new run started with, or learns from: pretrained ones, those of a run, or of a file.

    Args:
        weights: as they were read for ``recipe.weights``; None without.
    """
    origins = [_origin_of(run, run.recipe.weights, _state(task, weights))] if weights else []
    others = run.model.get("encoder_weights"), run.recipe.teacher
    return origins + [_origin_of(run, source, {}) for source in others if source]


def _state(task: Any, weights: Weights) -> dict[str, Any]:
    return weights.state or task.pretrained_weights().state


def _origin_of(run: Run, source: str, state: Mapping[str, Any]) -> Origin:
    if is_wandb_model(source):
        artifact = ":".join(wandb_path(source))
        return Origin(artifact, MODEL, {"weights": f"{PREFIX}{artifact}"}, artifact=artifact)
    path = exported_file(expanded(source)) or expanded(source)
    if path.is_file():
        return Origin(path.name, MODEL, {"weights": path.name, "sha256": sha256_of_file(path)})
    hashed = {"sha256": sha256_of_state(state)} if state else {}
    if is_published(current_registry(), source):
        address = find_backbone(source).source if ":" in source else ""
        return Origin(source, MODEL, {"weights": source, **({"source": address} if address else {}), **hashed})
    if source == "pretrained":
        network = run.model.get("encoder") or run.model.get("network") or run.model["name"]
        return Origin(f"{network}-pretrained", MODEL, {"weights": f"{network} as pretrained", **hashed})
    found = find_trained(source)
    if isinstance(found, RunFolder):
        return _of_run(found)
    return Origin(source, MODEL, {"weights": source, "sha256": sha256_of_file(found.checkpoint("best"))})


def _of_run(folder: RunFolder) -> Origin:
    """The best checkpoint of a run, which may be an artifact of a W&B run of its own."""
    from zoo.training.checkpoints import KEY, read_checkpoint

    name, former = folder.path.resolve().name, folder.read_run()
    about = {"run": name, "model": former.network, "data": former.data["name"], "sha256": sha256_of_file(folder.best)}
    run_id = read_checkpoint(folder.best)[KEY].get("trackers", {}).get("wandb", "")
    artifact = ""
    if run_id and former.wandb.artifacts != "off":
        project = "/".join(part for part in (former.wandb.entity, former.wandb.project) if part)
        artifact = f"{project}/{artifact_name(name, run_id)}:best".lstrip("/")
    return Origin(f"{name}-weights", MODEL, about, artifact=artifact)


def artifact_name(*parts: str) -> str:
    """A name in the letters that W&B takes, of at most as many."""
    return re.sub(r"[^\w.-]", "-", "-".join(parts), flags=re.ASCII)[-128:]


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
