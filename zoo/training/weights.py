"""Pretrained weights: read without running anything, and loaded completely or not at all."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.config.recipe import LIBRARIES, Run
from zoo.core.download import fetch
from zoo.core.errors import UserError, one_line, some
from zoo.core.files import cache_folder
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec, spec_from_primitives
from zoo.tasks.classification import Classifier, Weights
from zoo.tasks.task import Task
from zoo.training.backbones import find_backbone
from zoo.training.checkpoints import KEY, read_checkpoint, refused_global
from zoo.training.exported import SUFFIX, read_exported, was_exported
from zoo.training.run_folder import RunFolder

PRETRAINED = "pretrained"  # the weights that come with a model
# keys under which training scripts save the weights, the likelier first
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
# that wrappers add to every name
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "encoder.")
NAMED = 4  # mismatched weights in a message


@dataclass(frozen=True)
class LoadReport:
    """Summary of loaded weights, and of those that were skipped."""

    origin: str
    tensors: int
    values: int
    head: tuple[str, ...]  # of the file, skipped: the head is new
    left_out: tuple[str, ...]  # of parts that are only for training

    def __str__(self) -> str:
        left = f"; skipped: {some(self.left_out, NAMED)}" if self.left_out else ""
        head = "its head was replaced" if self.head else "the head is new"
        return f"{self.values:,} weights in {self.tensors} tensors from {self.origin}; {head}{left}"


def open_weights(registry: Registry, run: Run) -> Weights:
    """Read the pretrained weights of a Run.

    Raises:
        UserError: there are none of that name, they cannot be read, or they contain code.
    """
    source = run.recipe.weights
    if source.partition(":")[0] in LIBRARIES:
        return _of_library(source, run)
    if source == PRETRAINED:
        return Weights(f"{run.model['name']} as pretrained", {})
    path = Path(source).expanduser()
    if path.is_file():
        return read_weights(path)
    return _of_zoo(read_checkpoint(RunFolder.find(source).checkpoint("best")), f"the run {source}")


def match_image_size(registry: Registry, run: Run) -> Run:
    """Set the image size of a Run to that of its pretrained weights, if it is known.

    Raises:
        UserError: as ``open_weights`` does.
    """
    size = open_weights(registry, run).size or registry.model(run.model["name"]).load().size_of_files
    return run.model_copy(update={"data": {**run.data, "size": size}}) if size else run


def read_weights(path: Path) -> Weights:
    """Read a file of weights: safetensors, a checkpoint of the zoo, or a state dict saved by torch, alone or wrapped.

    Raises:
        UserError: it cannot be read, contains no weights, or contains more than plain data.
    """
    try:
        if path.suffix == SUFFIX:
            state: Any = load_file(path)
            if not state:
                raise UserError(f"{path} contains no weights")
            return _of_zoo(read_exported(path), str(path)) if was_exported(path) else Weights(str(path), state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about how the file was written
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    except pickle.UnpicklingError as error:
        if not (asked := refused_global(error)):
            raise UserError(f"{path} is damaged or not a weight file") from None
        raise UserError(f"{path} is refused: it would run {asked}, but weights are plain data") from None
    except Exception as error:  # both readers raise whatever a damaged file leads them to
        raise UserError(f"{path} is damaged or not a weight file") from error
    if isinstance(content, dict) and isinstance(content.get(KEY), dict):
        return _of_zoo(read_checkpoint(path), str(path))
    state = _unwrapped(content)
    if not state:
        raise UserError(f"{path} contains no weights: expected a state dict, or one under {some(map(repr, WRAPPERS[:3]))}")
    return Weights(str(path), state)


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """The state dict in the checkpoint of a training script: names to tensors."""
    if not isinstance(content, dict):
        return {}
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if any(isinstance(inner.get(key), dict) for key in WRAPPERS):
        return _unwrapped(inner)
    return {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _of_zoo(checkpoint: dict[str, Any], origin: str) -> Weights:
    try:
        spec = spec_from_primitives(checkpoint[KEY]["spec"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{origin} is damaged: {one_line(error, 150)}") from None
    if not isinstance(spec, ImageSpec):
        return Weights(origin, checkpoint["state_dict"])
    return Weights(origin, checkpoint["state_dict"], spec.mean, spec.std, spec.height)


def _of_library(name: str, run: Run) -> Weights:
    backbone = find_backbone(name)
    if backbone.library == "torchvision":
        file = backbone.source.rpartition("/")[2]
        digits = file.rpartition(".")[0].rpartition("-")[2]  # the publisher puts the first of its SHA-256 into its name
        path = fetch(file, f"{backbone.source}#sha256={digits}")
        return Weights(name, read_weights(path).state, size=backbone.size)
    return _of_timm(backbone.network)


def _of_timm(network: str) -> Weights:
    """From the Hugging Face hub, verified by its hash; a cached file needs no network."""
    import timm

    config = timm.get_pretrained_cfg(network)
    about = {"mean": tuple(config.mean), "std": tuple(config.std), "size": config.input_size[1]}
    path = cache_folder() / "downloads" / f"timm-{config.architecture}.{config.tag}{SUFFIX}"
    if not path.exists():
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        address = hf_hub_url(config.hf_hub_id or f"timm/{network}", config.hf_hub_filename or "model.safetensors")
        try:
            digest = str(get_hf_file_metadata(address).etag)
        except Exception as error:  # whatever the network raises
            raise UserError(
                f"timm:{network} could not be fetched ({type(error).__name__}): put {address} at {path} by hand"
            ) from None
        fetch(path.name, f"{address}#sha256={digest}")
    return Weights(f"timm:{network}", read_weights(path).state, **about)


def load_backbone(task: Task, weights: Weights) -> LoadReport:
    """Load pretrained weights into a network, except for the head, and set the normalization that they expect.

    Names may differ by a prefix of all of them. A linear head is initialized to zero: no class is preferred, and the first
    gradients leave the backbone unchanged (as Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3, start theirs).

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; nothing was loaded.
    """
    if not isinstance(task, Classifier):
        raise UserError(f"recipe.weights={weights.origin}: only image classifiers load pretrained weights")
    if not weights.state:  # pretrained
        weights = task.pretrained_weights()
    own = task.state_dict()
    head = task.head_names()
    found = _renamed(weights.state, own)
    left_out = {name for name in found if name.removeprefix(_common_prefix(own)).startswith(task.left_out)}
    body = {name: value for name, value in found.items() if name not in head and name not in left_out}
    _require_fit(body, {name: value for name, value in own.items() if name not in head}, weights.origin)
    own.update(body)  # with its metadata: the versions of the layers
    task.load_state_dict(own)
    _start_head(task)
    if statistics := (weights.mean, weights.std) if weights.mean else task.statistics_of_files:
        task.set_normalization(*statistics)
    values = sum(value.numel() for value in body.values() if value.is_floating_point())
    return LoadReport(weights.origin, len(body), values, tuple(sorted(head & set(found))), tuple(sorted(left_out)))


def _start_head(task: Classifier) -> None:
    *_, head = task.stages().values()
    if isinstance(head, nn.Linear):
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def _common_prefix(names: Iterable[str]) -> str:
    """The one of ``PREFIXES`` that all names begin with, or an empty string."""
    names = list(names)
    return next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict to the names of this network, if they differ by a prefix."""
    if not set(state) & set(own):
        while prefix := _common_prefix(state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
        prefix = _common_prefix(own)
        state = {f"{prefix}{name}": value for name, value in state.items()}
    return state


def _require_fit(found: dict[str, Tensor], own: dict[str, Tensor], origin: str) -> None:
    """Compare names and shapes.

    Raises:
        UserError: every kind of difference, counted, with the first of each.
    """
    # old files lack the counters that batch norms have had since torch 0.4.1
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(found) - counters)
    unexpected = sorted(set(found) - set(own))
    shapes = [
        f"{name} {_shape(found[name])} instead of {_shape(own[name])}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if differences := [f"{len(names)} {what}: {some(names, NAMED)}" for what, names in parts.items() if names]:
        raise UserError(f"{origin} does not fit this network, nothing was loaded: {'; '.join(differences)}")
    if broken := [name for name, value in found.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{origin} contains non-finite values, nothing was loaded: {some(broken, NAMED)}")
    for name in counters - set(found):
        found[name] = own[name]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"
