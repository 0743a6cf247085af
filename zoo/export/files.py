"""Writing a network in each format, and opening such a file again as those will who get it.

What travels is the whole way from pixels to probabilities: the pre-processing is part of the graph.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.errors import UserError, one_line
from zoo.export.formats import Format
from zoo.registry.registry import Registry
from zoo.tasks.classification import Classifier
from zoo.training.building import load_task
from zoo.training.exported import read_exported, write_exported

INPUT, OUTPUT = "images", "probabilities"
CLASSES = "classes"  # under this name a file holds the names of the classes, as JSON
INSTALL = "pip install 'bestiary[export]'"

Opened = Callable[[Tensor], Tensor]  # uint8 images [N, C, H, W] to probabilities [N, classes]


class Deployed(nn.Module):
    """A classifier as it is shipped: uint8 images [N, C, H, W] in, the probability of each class out, [N, classes]."""

    def __init__(self, task: Classifier) -> None:
        super().__init__()
        self.task = task.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.task.predict_step({"images": images})


def require_packages(format: Format) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        UserError: and how to install them.
    """
    for package in format.needs:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(f"--to {format.name} needs {package}, which is not installed: {INSTALL}") from None


def write_file(format: Format, task: Classifier, checkpoint: dict[str, Any], about: dict[str, str], path: Path) -> None:
    """Write a network in a format.

    Args:
        checkpoint: what the network was read from.
        about: what the file says of itself beside the weights, as text by name; safetensors takes the checkpoint's words.

    Raises:
        UserError: the network cannot be put into this format.
    """
    if format.name == "safetensors":
        write_exported(checkpoint, path)
        return
    if task.one_pass:
        raise UserError(f"a network that remembers its training images has no graph for {format.name}: take --to safetensors")
    write = {"onnx": _write_onnx, "torch-export": _write_torch_export}[format.name]
    write(Deployed(task), task.example_batch(2)["images"], about, path)


def open_file(format: Format, path: Path, registry: Registry) -> Opened:
    """An exported file, ready to run on the CPU, opened as those do who get it."""
    if format.name == "safetensors":
        task, _ = load_task(registry, read_exported(path), path)
        return torch.inference_mode()(Deployed(task))
    return {"onnx": _open_onnx, "torch-export": _open_torch_export}[format.name](path)


# ---------------------------------------------------------------------------------------------- torch.export


def _write_torch_export(network: Deployed, images: Tensor, about: dict[str, str], path: Path) -> None:
    graph = _graph(network, images, "torch-export")
    with _quiet():
        torch.export.save(graph, path, extra_files=about)


def _open_torch_export(path: Path) -> Opened:
    return torch.inference_mode()(torch.export.load(path).module())


def _graph(network: Deployed, images: Tensor, name: str) -> torch.export.ExportedProgram:
    """The computation for any number of images.

    Raises:
        UserError: it depends on values or on Python in a way that no graph can follow.
    """
    with _quiet(), torch.no_grad():
        try:
            return torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # of many kinds, with pages of advice
            reason = one_line(error, 200)
            raise UserError(f"{type(network.task).__name__} cannot be exported to {name}: {reason}") from error


# ---------------------------------------------------------------------------------------------- ONNX


def _write_onnx(network: Deployed, images: Tensor, about: dict[str, str], path: Path) -> None:
    graph = _graph(network, images, "onnx")
    with _quiet():
        try:
            program = torch.onnx.export(graph, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
        except Exception as error:
            reason = one_line(error.__cause__ or error, 200)
            raise UserError(f"{type(network.task).__name__} cannot be exported to onnx: {reason}") from error
        program.model.metadata_props.update(about)
        program.save(path, external_data=False)


def _open_onnx(path: Path) -> Opened:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell of their steps and of rules that are theirs; nothing of it could be acted on."""
    former = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)
