"""Networks with published weights and their own head: they answer with the classes that they were trained on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.config.resolution import resolve
from zoo.config.run import LIBRARIES, Run
from zoo.core.errors import UserError
from zoo.core.ranks import rank_zero_print
from zoo.registry.registry import Registry, current_registry
from zoo.spec import ImageSpec

if TYPE_CHECKING:
    from zoo.tasks.images import ImageModel
    from zoo.tasks.weights import Weights

Settings = list[dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class PublishedNetwork:
    """Stands in for a run where a network with published weights is used as it is.

    Attributes:
        name: ``torchvision:NAME``, ``timm:NAME``, ``hf-hub:OWNER/NAME``, or a model of the zoo that comes with weights.
        weights: a file in place of the published weights.
        settings: of model and recipe, as ``resolve`` takes them.
    """

    kind: ClassVar[str] = "a published network"
    remedy: ClassVar[str] = ""  # as of an exported file
    name: str
    weights: str = ""
    settings: Settings = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Its name, where runs and files have their path."""
        return Path(self.name)

    def test_metrics(self) -> dict[str, float]:
        """None: it was not tested here."""
        return {}

    def checkpoint(self, which: str) -> Path:
        """None.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.name} is a published network, not a run, without checkpoints: `zoo finetune` makes a run of it")

    def data_options(self, spec: ImageSpec, given: dict[str, Any]) -> dict[str, Any]:
        """The data section of a Run where images are prepared as its weights expect, except for what was set otherwise."""
        wanted = {
            "size": spec.height,
            "crop": spec.crop.mode,
            "crop_pct": spec.crop.pct,
            "interpolation": spec.crop.interpolation,
        }
        defaults = current_registry().data_set(given["name"]).defaults
        return {**given, **{key: value for key, value in wanted.items() if key in given and given[key] == defaults[key]}}

    def open(self) -> ImageModel:
        """The network, in evaluation; raises as ``open_published`` does."""
        return open_published(current_registry(), self.name, self.weights, self.settings)[0]

    def read_run(self) -> Run:
        """The Run of the network, whose recipe names its weights.

        Raises:
            UserError: no such network or file.
        """
        from zoo.training.finetuning import starting_point

        registry = current_registry()
        model, source = starting_point(registry, self.name, self.weights)
        given = {"model": {key: value for key, value in model.items() if key != "name"}}
        kept = {"recipe": {"weights": source, "keep_head": True}}
        return resolve(registry, model["name"], {}, [given, *self.settings, kept])


def open_published(
    registry: Registry, name: str, weights: str = "", settings: Sequence[dict[str, Any]] = ()
) -> tuple[ImageModel, Run]:
    """Build a network with its published weights and head, ready to evaluate: its spec has their classes and preprocessing.

    Args:
        name, weights, settings: those of ``PublishedNetwork``.

    Returns:
        The task and its Run.

    Raises:
        UserError: there are no such weights, or they do not fit.
    """
    from zoo.tasks.library_images import numbered
    from zoo.training.building import build_task
    from zoo.training.weights.loading import load_backbone, open_weights

    run = PublishedNetwork(name, weights, list(settings)).read_run()
    found = open_weights(registry, run)
    spec = found.spec or _usual_spec(registry, name, run)
    task = build_task(registry, run, spec)
    if not found.state:
        found = task.pretrained_weights()
    if found.spec is None and (count := _classes_in(task, found)) != len(spec.classes):
        spec = replace(spec, classes=numbered(count))
        task = build_task(registry, run, spec)
    file = f" --weights {shlex.quote(weights)}" if weights else ""
    report = load_backbone(task, replace(found, spec=spec), f"fine-tune it with zoo finetune {name}{file} --data DATA")
    if weights:
        rank_zero_print(str(report))
    return task.eval(), run


def _usual_spec(registry: Registry, name: str, run: Run) -> ImageSpec:
    """The images and classes that weights of this network usually have."""
    from zoo.training.weights.libraries import library_spec

    if run.model["name"] in LIBRARIES:
        return library_spec(name)
    return registry.model(run.model["name"]).load().published_spec()


def _classes_in(task: ImageModel, weights: Weights) -> int:
    """The number of classes of the head in a file."""
    from zoo.training.weights.matching import match_weights

    match = match_weights(task, weights)
    return next((len(match.values[name]) for name in task.head_names() if name in match.values), task.spec.outputs)
