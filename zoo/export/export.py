"""Export a trained classifier: write the file, compare it with the original, and write its model card."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from zoo.core.errors import UserError, one_line
from zoo.export.agreement import Agreement, OwnData, check_agreement, own_test_data
from zoo.export.card import Card
from zoo.export.files import CLASSES, open_file, require_packages, write_file
from zoo.export.formats import Format, card_file
from zoo.registry.registry import Registry
from zoo.tasks.classification import Classifier, require_classifier
from zoo.training.building import load_task
from zoo.training.exported import read_trained


@dataclass(frozen=True)
class Exported:
    """Result of an export; ``without`` is the reason why no test images were available."""

    format: Format
    file: Path
    card: Path
    bytes: int
    agreement: Agreement
    without: str


def export(
    registry: Registry, checkpoint_file: Path, format: Format, path: Path, name: str, metrics: dict[str, float], license: str
) -> Exported:
    """Write a trained classifier to ``path``, and a model card beside it, atomically and only if its predictions agree.

    Args:
        checkpoint_file: of a run, or an exported file.
        name: of the network, for the card.
        metrics: test metrics; empty for an exported file.
        license: for the card.

    Raises:
        UserError: not an image classifier, not supported by the format, predictions differ, or the file cannot be written.
    """
    require_packages(format)
    checkpoint = read_trained(checkpoint_file)
    task, run = load_task(registry, checkpoint, checkpoint_file)
    require_classifier(task, f"{run.model['name']} of {run.data['name']}", "zoo export")
    data = own_test_data(registry, run, task.spec)
    counts = {} if isinstance(data, str) else data.counts
    about = {CLASSES: json.dumps(task.spec.classes), "model": run.model["name"], "license": license}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            beside = Path(folder) / path.name
            write_file(format, task, checkpoint, about, beside)
            agreement = _checked(task, format, beside, registry, data)
            size = beside.stat().st_size
            card = Card(name, format, path, run, task, counts, metrics, license, agreement)
            card_file(beside).write_text(card.text(), encoding="utf-8")
            for each in (beside, card_file(beside)):
                os.replace(each, path.with_name(each.name))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None
    return Exported(format, path, card_file(path), size, agreement, data if isinstance(data, str) else "")


def _checked(task: Classifier, format: Format, file: Path, registry: Registry, data: OwnData | str) -> Agreement:
    try:
        return check_agreement(task, open_file(format, file, registry), data)
    except UserError:
        raise
    except Exception as error:  # from any runtime
        raise UserError(f"the exported network does not run: {one_line(error, 200)}; nothing was written") from error
