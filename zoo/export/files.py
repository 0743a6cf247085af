"""Writers for each export format, and readers that open a file as its users will.

The graph contains the complete path from uint8 pixels to what the network predicts.
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
from zoo.export.formats import FORMATS, Format
from zoo.export.hub import write_config
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel
from zoo.tasks.library import MODULE, library_model, library_prefix
from zoo.training.building import load_task
from zoo.training.exported import read_exported, write_exported
from zoo.training.sources import HUB_WEIGHTS

INPUT = "images"
CLASSES = "classes"  # metadata key of the names of the outputs, as JSON
INSTALL = "pip install 'bestiary[export]'"

Opened = Callable[[Tensor], Tensor]  # uint8 images [N, C, H, W] to predictions [N, outputs]


class Deployed(nn.Module):
    """A network from uint8 images, [N, C, H, W], to predictions, [N, outputs]."""

    def __init__(self, task: ImageModel) -> None:
        super().__init__()
        self.task = task.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.task.predict_step({"images": images})


def require_packages(format: Format) -> None:
    """Check that the packages of a format are installed.

    Raises:
        UserError: with the command that installs them.
    """
    for package in format.needs:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(f"--to {format.name} needs {package}, which is not installed: {INSTALL}") from None


def write_file(format: Format, task: ImageModel, checkpoint: dict[str, Any], about: dict[str, str], path: Path) -> None:
    """Write a network in a format.

    Args:
        checkpoint: that the network was loaded from.
        about: metadata.

    Raises:
        UserError: the format does not support the network.
    """
    if format.name == "safetensors":
        write_exported(checkpoint, path, library_prefix(task), **{CLASSES: about[CLASSES]})
        return
    if format.name == "hub":
        path.mkdir()
        write_file(FORMATS["safetensors"], task, checkpoint, about, path / HUB_WEIGHTS)
        write_config(task, checkpoint, path / "config.json")
        return
    if task.one_pass:
        raise UserError(f"nearest neighbors have no graph for {format.name}: use --to safetensors")
    write = {"onnx": _write_onnx, "torch-export": _write_torch_export}[format.name]
    write(Deployed(task), task.example_batch(2)["images"], about, path)


def open_file(format: Format, path: Path, registry: Registry) -> Opened:
    """Open an exported file for inference on the CPU."""
    if format.name == "hub":
        return open_file(FORMATS["safetensors"], path / HUB_WEIGHTS, registry)
    if format.name == "safetensors":
        task, _ = load_task(registry, read_exported(path), path)
        if library := library_model(task):
            setattr(task, MODULE, library.load(task.spec.outputs, path))
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
    """Trace the network with a dynamic batch size, without the source lines, which name folders of this machine.

    Raises:
        UserError: its control flow depends on data.
    """
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # of many types and long
            reason = one_line(error, 200)
            raise UserError(f"{type(network.task).__name__} cannot be exported to {name}: {reason}") from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


# ---------------------------------------------------------------------------------------------- ONNX


def _write_onnx(network: Deployed, images: Tensor, about: dict[str, str], path: Path) -> None:
    graph = _graph(network, images, "onnx")
    with _quiet():
        try:
            names = {"input_names": [INPUT], "output_names": [network.task.describe_outputs().name]}
            program = torch.onnx.export(graph, dynamo=True, verbose=False, **names)
        except Exception as error:
            reason = one_line(error.__cause__ or error, 200)
            raise UserError(f"{type(network.task).__name__} cannot be exported to onnx: {reason}") from error
        program.model.metadata_props.update(about)
        program.save(path, external_data=False)


def _open_onnx(path: Path) -> Opened:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, whose messages are not actionable."""
    former = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)
