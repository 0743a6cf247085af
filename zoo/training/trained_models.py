"""Trained models that come along: files of ``zoo/trained``, whose metadata says what they are, read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "trained"
KIND = "a trained model of the zoo"
ABOUT = "trained"  # metadata key of what a file says beside what all exported files do


@dataclass(frozen=True)
class TrainedModel:
    """A trained model that comes along.

    Attributes:
        name: the model and what it was trained on, as in ``resnet20.digits``.
        run: the Run of its training, as plain data.
        metric: the main one of ``metrics``.
        metrics: of the test split, by the weights in the file, as in ``test/accuracy``.
        command: trains it again.
        test: the command that repeats the metrics, with what data that does not come along needs, as in ``--data FOLDER``.
        precision: in which the weights are stored: ``half`` or ``single``.
        seconds: that the training took on one thread of a CPU.
        license: of the weights.
        data: what it was trained on, with source and license.
        limits: what it is not for.
        versions: of the libraries that it was trained with.
    """

    name: str
    file: Path
    run: dict[str, Any]
    metric: str
    metrics: dict[str, float]
    command: str
    test: str
    precision: str
    seconds: float
    license: str
    data: str
    limits: str
    versions: dict[str, str]

    @property
    def model(self) -> str:
        """The name of its model."""
        return str(self.run["model"]["name"])

    @property
    def data_set(self) -> str:
        """The name of its data set."""
        return str(self.run["data"]["name"])

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self.file.stat().st_size

    @property
    def card(self) -> Path:
        """The model card."""
        return self.file.with_suffix(".md")

    @property
    def remedy(self) -> str:
        """What to do where the records of a run are needed, after the text of an error."""
        return f"; to make one: {self.command}"

    def to_dict(self) -> dict[str, Any]:
        """As ``zoo list --trained --json`` has it."""
        stored = {key: value for key, value in vars(self).items() if key not in ("run", "file")}
        return {**stored, "model": self.model, "data_set": self.data_set, "bytes": self.bytes}


@cache
def trained_models() -> dict[str, TrainedModel]:
    """All of them, by name."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.safetensors"))}


def _read(path: Path) -> TrainedModel:
    """Read the metadata at the beginning of a safetensors file: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    return TrainedModel(path.stem, path, json.loads(metadata["bestiary"])["run"], **json.loads(metadata[ABOUT]))
