"""Export a trained network of images: write the file, compare it with the original, and write its model card."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from zoo.core.errors import UserError, one_line
from zoo.core.files import making_folder
from zoo.export.agreement import Agreement, OwnData, check_agreement, own_test_data
from zoo.export.card import NOT_STATED, Card
from zoo.export.files import CLASSES, open_file, require_packages, write_file
from zoo.export.formats import Format, card_file
from zoo.export.hub import front_matter
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel, require_image_model
from zoo.tasks.library import library_model
from zoo.training.building import load_task
from zoo.training.exported import read_trained
from zoo.training.sources import HUB_WEIGHTS


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        file: or folder.
        bytes: of the file, or of the weights in the folder.
        without: the reason why no test images were available.
        loading: the line of Python with which a library loads the file; empty for networks of the zoo.
    """

    format: Format
    file: Path
    card: Path
    bytes: int
    agreement: Agreement
    without: str
    loading: str


def export(
    registry: Registry, checkpoint_file: Path, format: Format, path: Path, name: str, metrics: dict[str, float], license: str
) -> Exported:
    """Write a trained network of images to ``path``, with a model card, atomically and only if its predictions agree.

    Args:
        checkpoint_file: of a run, or an exported file.
        name: of the network, for the card.
        metrics: test metrics; empty for an exported file.
        license: for the card; empty is not stated.

    Raises:
        UserError: not a network of images, not supported by the format, predictions differ, or the file cannot be written.
    """
    require_packages(format)
    checkpoint = read_trained(checkpoint_file)
    task, run = load_task(registry, checkpoint, checkpoint_file)
    require_image_model(task, f"{run.model['name']} of {run.data['name']}", "zoo export")
    data, outputs = own_test_data(registry, run, task.spec), task.describe_outputs()
    about = {
        CLASSES: json.dumps(outputs.names),
        **outputs.metadata,
        "value_range": json.dumps(task.spec.value_range),
        "model": run.model["name"],
        "license": license or NOT_STATED,
    }
    loaded = path.name if format.suffix else HUB_WEIGHTS
    library = library_model(task) if format.name in ("safetensors", "hub") else None
    try:
        with making_folder(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            beside = Path(folder) / path.name
            write_file(format, task, checkpoint, about, beside)
            agreement = _checked(task, format, beside, registry, data)
            size = (beside if format.suffix else beside / HUB_WEIGHTS).stat().st_size
            card = Card(name, format, loaded, run, task, library, data, metrics, license, agreement).text()
            if not format.suffix:
                card = front_matter(task, run, registry, name, metrics, license) + card
            card_file(beside, format).write_text(card, encoding="utf-8")
            for each in (beside, card_file(beside, format)) if format.suffix else (beside,):
                os.replace(each, path.with_name(each.name))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None
    without = data if isinstance(data, str) else ""
    file = path if format.suffix else path / HUB_WEIGHTS
    loading = library.loading(task.spec.outputs, str(file)) if library else ""
    return Exported(format, path, card_file(path, format), size, agreement, without, loading)


def _checked(task: ImageModel, format: Format, file: Path, registry: Registry, data: OwnData | str) -> Agreement:
    try:
        return check_agreement(task, open_file(format, file, registry), data)
    except UserError:
        raise
    except Exception as error:  # from any runtime
        raise UserError(f"the exported network does not run: {one_line(error, 200)}; nothing was written") from error
