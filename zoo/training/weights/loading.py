"""Pretrained weights: found by name or file, and loaded completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from zoo.config.run import LIBRARIES, Run
from zoo.core.errors import UserError, some
from zoo.core.files import expanded
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel
from zoo.tasks.task import Task
from zoo.tasks.weights import Weights
from zoo.training.exported import read_trained
from zoo.training.run_folder import RunFolder
from zoo.training.sources import find_trained
from zoo.training.weights.backbones import HUB
from zoo.training.weights.files import read_weights, weights_of_zoo
from zoo.training.weights.libraries import library_spec, read_library_weights
from zoo.training.weights.matching import NAMED, Match, differences, match_in_order, match_weights
from zoo.training.weights.wandb_models import fetch_model, is_wandb_model

PRETRAINED = "pretrained"  # the weights that come with a model
OMIT = "omit --keep-head (recipe.keep_head)"


@dataclass(frozen=True)
class LoadReport:
    """Summary of loaded weights, and of those that were skipped; the names are those in the file.

    Attributes:
        head: ``kept``, ``replaced``, or ``new`` where the file has none.
        left_out: of parts that are only for training, or of other networks.
    """

    origin: str
    tensors: int
    values: int
    head: str
    left_out: tuple[str, ...] = ()
    by_order: bool = False

    def __str__(self) -> str:
        left = f"; skipped: {some(self.left_out, NAMED)}" if self.left_out else ""
        head = {"kept": "its head was kept", "replaced": "its head was replaced", "new": "the head is new"}[self.head]
        order = ", matched by order and shape" if self.by_order else ""
        return f"{self.values:,} weights in {self.tensors} tensors from {self.origin}{order}; {head}{left}"


def open_weights(registry: Registry, run: Run) -> Weights:
    """Read the pretrained weights of a Run.

    Raises:
        UserError: there are none of that name, they cannot be read, or they contain code.
    """
    source = run.recipe.weights
    if source.partition(":")[0] in (*LIBRARIES, HUB):
        return read_library_weights(source)
    if source == PRETRAINED:
        return Weights(f"{run.model['name']} as pretrained", {})
    path = expanded(source)
    if path.is_file():
        return read_weights(path, run.recipe.weights_key)
    if is_wandb_model(source):
        return replace(read_weights(fetch_model(source), run.recipe.weights_key), origin=source)
    found = find_trained(source)
    origin = f"the run {source}" if isinstance(found, RunFolder) else source
    return weights_of_zoo(read_trained(found.checkpoint("best")), origin)


def match_images(registry: Registry, run: Run, given: Collection[str]) -> Run:
    """Set the image size of a Run to that of its pretrained weights, if it is known, and the channels to those that they take.

    Args:
        given: options of the data that stay as they are.

    Raises:
        UserError: as ``open_weights`` does.
    """
    source, network = run.recipe.weights, registry.model(run.model["name"]).load()
    wanted = {"size", "channels"} & set(run.data) - set(given)
    if network.repeats_gray:
        wanted.discard("channels")
    if not wanted:
        return run
    weights = None if source.partition(":")[0] in (*LIBRARIES, HUB) else open_weights(registry, run)
    spec = weights.spec if weights else library_spec(source)
    size = spec.height if spec else network.size_of_files
    channels = spec.channels if spec else _input_channels(weights) if weights else 0
    matched = {name: value for name, value in (("size", size), ("channels", channels)) if value and name in wanted}
    return run.model_copy(update={"data": {**run.data, **matched}})


def _input_channels(weights: Weights) -> int:
    """1 or 3, the channels that the first convolution takes; 0 if it takes others, or there is none."""
    first = next((value.shape[1] for value in weights.state.values() if value.ndim == 4), 0)
    return first if first in (1, 3) else 0


def load_backbone(task: Task, weights: Weights, advice: str = OMIT) -> LoadReport:
    """Load pretrained weights into a network, and set the normalization that they expect.

    Names may differ by a prefix. A new linear head is initialized to zero: no class is preferred, and the first gradients leave
    the backbone unchanged (as Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3, start theirs). The recipe of the task says
    whether tensors are matched by order and whether the head is kept.

    Args:
        advice: what to do about a head that cannot be kept.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; nothing was loaded.
    """
    if not isinstance(task, ImageModel):
        raise UserError(f"recipe.weights={weights.origin}: only image classifiers load pretrained weights")
    if not weights.state:  # pretrained
        weights = task.pretrained_weights()
    recipe, head = task.recipe, task.head_names()
    match = match_weights(task, weights)
    kept = {name for name in task.state_dict() if recipe.keep_head or name not in head}
    if recipe.keep_head and not differences(match, kept - head, task, weights):  # at most the head differs
        _require_head(match, task, weights, advice)
    _require_fit(match, kept, task, weights)
    own = task.state_dict()  # with its metadata: the versions of the layers
    own.update({name: match.values[name] for name in kept if name in match.values})
    task.load_state_dict(own)
    if not recipe.keep_head:
        _start_head(task)
    if recipe.weights_mean or recipe.weights_std:
        task.set_normalization(recipe.weights_mean or (0.0,), recipe.weights_std or (1.0,))
    elif statistics := (weights.spec.mean, weights.spec.std) if weights.spec else task.statistics_of_files:
        task.set_normalization(*statistics)
    loaded = [match.values[name] for name in kept if name in match.values]
    values = sum(value.numel() for value in loaded if value.is_floating_point())
    state_of_head = "kept" if recipe.keep_head else "replaced" if head & set(match.values) else "new"
    return LoadReport(
        f"{weights.origin}{weights.note}", len(loaded), values, state_of_head, tuple(match.left_out), recipe.weights_by_order
    )


def _start_head(task: ImageModel) -> None:
    *_, head = task.stages().values()
    if isinstance(head, nn.Linear):
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def _require_head(match: Match, task: ImageModel, weights: Weights, advice: str) -> None:
    """Refuse to keep a head for other classes.

    Raises:
        UserError: it is missing, or the classes differ in number or name.
    """
    head, own = task.head_names(), task.state_dict()
    if head - set(match.values):
        raise UserError(f"{weights.origin} has no head: {advice}")
    for name in head:
        theirs, ours = len(match.values[name]), len(own[name])
        if theirs != ours:
            raise UserError(f"{weights.origin} has a head for {theirs:,} classes, and the data has {ours:,}: {advice}")
    if weights.spec and weights.spec.output_names != task.spec.output_names:
        theirs, ours = some(weights.spec.output_names), some(task.spec.output_names)
        raise UserError(f"{weights.origin} has a head for the classes {theirs}, and the data has {ours}: {advice}")


def _other_options(task: ImageModel, weights: Weights) -> list[str]:
    """Options of the network in which the weights were trained, if they are known, that are others in this one."""
    ours = {name: json.dumps(value, default=str) for name, value in task.hparams.items()}  # a tuple is a list in a checkpoint
    theirs = {name: json.dumps(value) for name, value in weights.model.items()}
    options = [f"model.{name}={value}" for name, value in theirs.items() if ours.get(name, value) != value]
    return [f"they were trained with {', '.join(options)}"] if options else []


def _require_fit(match: Match, needed: set[str], task: ImageModel, weights: Weights) -> None:
    """Refuse weights of another network, and those that are not finite.

    Raises:
        UserError: they differ, or a value is not finite; nothing was loaded.
    """
    if found := differences(match, needed, task, weights):
        if not task.recipe.weights_by_order and match_in_order(task, weights):
            raise UserError(
                f"{weights.origin} has other names than this network, but its {len(weights.state)} tensors match in order and "
                "shape: load them so with --set recipe.weights_by_order=true"
            )
        found += _other_options(task, weights)
        raise UserError(f"{weights.origin} does not fit this network, nothing was loaded: {'; '.join(found)}")
    kept = {name: value for name, value in match.values.items() if name in needed}
    if broken := [match.names[n] for n, value in kept.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{weights.origin} contains non-finite values, nothing was loaded: {some(broken, NAMED)}")
