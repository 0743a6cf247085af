"""Index of the kinds of pictures, importable without torch and matplotlib.

Names and options are checked here before the module that draws is imported.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.errors import UserError, unknown
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry

if TYPE_CHECKING:
    from zoo.pictures.figure import Picture
    from zoo.training.exported import ExportedFile
    from zoo.training.run_folder import RunFolder

    Source = RunFolder | ExportedFile | Entry

FLAGS = {
    "checkpoint": "--checkpoint", "data": "--data", "settings": "--set", "metric": "--metric", "layer": "--layer",
    "text": "--text", "units": "--units", "class_name": "--class",
}  # fmt: skip
DATA = ("data", "settings")
CHECKPOINT = ("checkpoint",)
MANY = 1000  # runs
OF_IMAGES = ("classification", "multilabel", "regression")  # tasks of the same networks


@dataclass(frozen=True)
class Kind:
    """A kind of picture, drawn by the function of its name, with ``_`` for ``-``.

    Attributes:
        name: argument of ``zoo picture``.
        shows: description.
        usage: arguments after the name.
        module: module of the function.
        fewest, most: number of runs.
        flags: options of the command that the function takes besides the registry and the runs.
        takes_models: whether models can be given instead of runs.
        tasks: possible tasks of the runs; empty for any.
        takes_images: whether image files can follow the runs.
    """

    name: str
    shows: str
    usage: str
    module: str
    fewest: int = 1
    most: int = 1
    flags: tuple[str, ...] = ()
    takes_models: bool = False
    tasks: tuple[str, ...] = ("classification",)
    takes_images: bool = False

    def draw(self, registry: Registry, sources: list[Source], **flags: Any) -> Picture:
        """Import the function, and draw."""
        function = getattr(importlib.import_module(self.module), self.name.replace("-", "_"))
        return function(registry, sources, **flags)

    @property
    def call(self) -> str:
        """Usage after ``zoo picture``."""
        return f"{self.name} {self.usage}".rstrip()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("templates", "weights of a linear classifier, one image per class", "RUN", "zoo.pictures.weights",
             flags=CHECKPOINT, tasks=OF_IMAGES),
        Kind("filters", "filters of the first convolution, trained or at initialization", "RUN|MODEL", "zoo.pictures.weights",
             flags=CHECKPOINT + DATA, takes_models=True, tasks=OF_IMAGES),
        Kind("confusion", "confusion matrix of a classifier", "RUN", "zoo.pictures.predictions",
             flags=CHECKPOINT + DATA),
        Kind("mistakes", "misclassified test images, most confident first", "RUN", "zoo.pictures.predictions",
             flags=CHECKPOINT + DATA),
        Kind("calibration", "reliability diagram of a classifier", "RUN", "zoo.pictures.calibration",
             flags=CHECKPOINT + DATA),
        Kind("scatter", "predicted against true values of a regression", "RUN", "zoo.pictures.scatter",
             flags=CHECKPOINT + DATA, tasks=("regression",)),
        Kind("saliency", "saliency maps: gradient and SmoothGrad", "RUN [IMAGE...]", "zoo.pictures.saliency",
             flags=(*CHECKPOINT, *DATA, "class_name"), takes_images=True,
             tasks=("classification", "multilabel")),
        Kind("gradcam", "Grad-CAM: regions that raise the score of a class", "RUN [IMAGE...]", "zoo.pictures.gradcam",
             flags=(*CHECKPOINT, *DATA, "class_name"), takes_images=True,
             tasks=("classification", "multilabel")),
        Kind("attention", "attention maps of a transformer, or of a captioner for each word", "RUN [IMAGE...]",
             "zoo.pictures.attention", flags=(*CHECKPOINT, *DATA, "layer"), takes_images=True,
             tasks=(*OF_IMAGES, "captioning")),
        Kind("captions", "test images with the best and the worst captions", "RUN", "zoo.pictures.caption_attention",
             flags=CHECKPOINT + DATA, tasks=("captioning",)),
        Kind("curves", "learning curves of one or several runs", "RUN...", "zoo.pictures.curves",
             most=MANY, flags=("metric",), tasks=()),
        Kind("regions", "decision regions in the plane, of runs or standard classifiers", "RUN...|--data NAME",
             "zoo.pictures.regions", fewest=0, most=MANY, flags=CHECKPOINT + DATA),
        Kind("cells", "text colored by single units of a recurrent network", "RUN [--text FILE]", "zoo.pictures.cells",
             flags=(*CHECKPOINT, "text", "units"), tasks=("language-modeling",)),
        Kind("path", "trajectories of a navigation agent, from above", "RUN", "zoo.pictures.paths",
             flags=CHECKPOINT + DATA, tasks=("navigation",)),
        Kind("gradient-flow", "gradient norms through time of a vanilla RNN and an LSTM", "",
             "zoo.pictures.gradient_flow", fewest=0, most=0),
        Kind("computation-graph", "values and gradients of a small expression: backpropagation", "",
             "zoo.pictures.computation_graph", fewest=0, most=0),
        Kind("convolution", "how a convolution slides over an image: stride, padding, pooling", "",
             "zoo.pictures.convolution", fewest=0, most=0),
        Kind("losses", "losses and their derivatives as functions of one score", "", "zoo.pictures.losses", fewest=0, most=0),
        Kind("norm-axes", "which values of a feature map each norm averages over", "", "zoo.pictures.norm_axes",
             fewest=0, most=0),
        Kind("optimizer-paths", "paths of the optimizers in a narrow valley and past a saddle point", "",
             "zoo.pictures.optimizer_paths", fewest=0, most=0),
    )
}  # fmt: skip


def write_picture(registry: Registry, kind_name: str, names: list[str], output: str = "", **flags: Any) -> tuple[Path, Picture]:
    """Draw a picture and write it as PNG.

    Args:
        kind_name: key of ``KINDS``.
        names: runs by name or path, exported files and trained models if weights suffice, or models; then image files.
        output: default RUN-KIND.png in the current folder.
        flags: options of the command; empty values count as not given.

    Returns:
        The file and the picture.

    Raises:
        UserError: an unknown name, options or runs that do not fit the kind, or a file that cannot be written.
    """
    if kind_name not in KINDS:
        raise unknown("picture", kind_name, KINDS)
    kind = KINDS[kind_name]
    given = {flag: value for flag, value in flags.items() if value}
    if strange := [flag for flag in given if flag not in kind.flags]:
        takes = ", ".join(FLAGS[flag] for flag in kind.flags)
        raise UserError(f"{kind.name} takes no {FLAGS[strange[0]]}: {f'it takes {takes}' if takes else 'omit it'}")
    if kind.takes_images and len(names) > kind.most:
        given["images"] = names[kind.most :]
        names = names[: kind.most]
    if not kind.fewest <= len(names) <= kind.most:
        raise UserError(f"write it as zoo picture {kind.call}: {len(names) or 'no'} runs were given")
    if "data" in given:
        from zoo.config.resolution import data_section

        registry.data_set(data_section(registry, given["data"])["name"])
    sources = [_find(registry, kind, name) for name in names]
    from zoo.training.run_folder import RunFolder

    found = [source for source in sources if not isinstance(source, Entry)]
    for folder in found:
        if "checkpoint" not in kind.flags and not isinstance(folder, RunFolder):
            needs = f"zoo picture {kind.name} needs the records of a run, and {folder.name} is {folder.kind}"
            raise UserError(f"{needs}{folder.remedy}")
        run = folder.read_run()
        model = registry.model(run.model["name"])
        task = registry.task_of(model.name, run.data["name"])
        if kind.tasks and task not in kind.tasks:
            raise UserError(f"zoo picture {kind.name} is for {kind.tasks[0]}, and {folder.name} ({model.name}) is for {task}")
    if "checkpoint" in given and not found:
        raise UserError("--checkpoint needs a run")
    for folder in found if "checkpoint" in kind.flags else ():
        folder.checkpoint(given.get("checkpoint", "best"))

    from zoo.pictures.figure import check_output, style, write_png

    path = Path(output or _default_file(kind, sources, given))
    check_output(path)
    with style():
        picture = kind.draw(registry, sources, **given)
        write_png(picture.figure, path)
    return path, picture


def _find(registry: Registry, kind: Kind, name: str) -> Source:
    """The run of that name or path, the exported file, or else the model."""
    from zoo.training.run_folder import known_runs
    from zoo.training.sources import find_trained
    from zoo.training.trained_models import trained_models

    try:
        return find_trained(name)
    except UserError:
        if not kind.takes_models:
            raise
        if name in registry.models:
            return registry.model(name)
        known = [*known_runs(), *trained_models(), *registry.models]
        raise unknown("run or model", name, known, "`zoo list` shows the models") from None


def _default_file(kind: Kind, sources: list[Source], given: dict[str, Any]) -> str:
    if len(sources) == 1:
        only = sources[0]
        name = only.name if isinstance(only, Entry) else only.path.resolve().name.removesuffix(".safetensors")
        return f"{name}-{kind.name}.png"
    return f"{kind.name}.png" if sources or "data" not in given else f"{given['data']}-{kind.name}.png"
