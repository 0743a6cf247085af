"""The index of pictures: what each shows and what it is made of, readable without torch or matplotlib.

Names of kinds, runs and models are answered here; only then the module that draws is imported.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.errors import UserError, unknown
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry

if TYPE_CHECKING:
    from zoo.pictures.figure import Picture
    from zoo.training.exported import ExportedFile
    from zoo.training.run_folder import RunFolder

    Subject = RunFolder | ExportedFile | Entry

FLAGS = {
    "checkpoint": "--checkpoint", "data": "--data", "settings": "--set", "metric": "--metric", "layer": "--layer",
    "text": "--text", "units": "--units", "class_name": "--class",
}  # fmt: skip
DATA = ("data", "settings")
CHECKPOINT = ("checkpoint",)
MANY = 1000  # runs: more than a command line holds


@dataclass(frozen=True)
class Kind:
    """One sort of picture, drawn by the function of its name, in which ``_`` stands for ``-``.

    Attributes:
        name: what ``zoo picture NAME`` takes.
        shows: what one sees, as a list tells it.
        usage: what stands after the name.
        module: where the function is.
        fewest, most: how many runs it takes.
        flags: options of the command that the function takes, beside the registry and the runs.
        takes_models: a model's name will do in place of a run.
        task: what the runs must be of; empty for any.
        takes_images: what is named after the runs are image files.
        other_modules: runs of these tasks are drawn by the function of that name in another module.
    """

    name: str
    shows: str
    usage: str
    module: str
    fewest: int = 1
    most: int = 1
    flags: tuple[str, ...] = ()
    takes_models: bool = False
    task: str = "classification"
    takes_images: bool = False
    other_modules: dict[str, str] = field(default_factory=dict)

    def draw(self, registry: Registry, subjects: list[Subject], task: str, **flags: Any) -> Picture:
        """Import what draws it, and draw; ``task`` is that of the subjects."""
        module = importlib.import_module(self.other_modules.get(task, self.module))
        function = getattr(module, self.name.replace("-", "_"))
        return function(registry, subjects, **flags)

    @property
    def call(self) -> str:
        """What a command line says after ``zoo picture``."""
        return f"{self.name} {self.usage}".rstrip()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("templates", "the weights of a linear classifier, one image a class", "RUN", "zoo.pictures.weights",
             flags=CHECKPOINT),
        Kind("filters", "the first filters of a convolutional network, trained or not", "RUN|MODEL", "zoo.pictures.weights",
             flags=CHECKPOINT + DATA, takes_models=True),
        Kind("confusion", "which classes a classifier takes for which others", "RUN", "zoo.pictures.predictions",
             flags=CHECKPOINT + DATA),
        Kind("mistakes", "the test images on which a classifier is most surely wrong", "RUN", "zoo.pictures.predictions",
             flags=CHECKPOINT + DATA),
        Kind("calibration", "whether a classifier is as often right as it is sure", "RUN", "zoo.pictures.calibration",
             flags=CHECKPOINT + DATA),
        Kind("saliency", "which pixels a classifier goes by", "RUN [IMAGE...]", "zoo.pictures.saliency",
             flags=(*CHECKPOINT, *DATA, "class_name"), takes_images=True),
        Kind("attention", "where a transformer looks in images, or a captioner for each word", "RUN [IMAGE...]",
             "zoo.pictures.attention", flags=(*CHECKPOINT, *DATA, "layer"), takes_images=True,
             other_modules={"captioning": "zoo.pictures.caption_attention"}),
        Kind("captions", "test images with the best and the worst captions", "RUN", "zoo.pictures.caption_attention",
             flags=CHECKPOINT + DATA, task="captioning"),
        Kind("curves", "learning curves of one run or several", "RUN...", "zoo.pictures.curves",
             most=MANY, flags=("metric",), task=""),
        Kind("depth", "errors of plain and residual networks of 20 and 56 layers", "RUN RUN RUN RUN", "zoo.pictures.depth",
             most=4),
        Kind("regions", "decision regions in the plane, of runs or of standard classifiers", "RUN...|--data NAME",
             "zoo.pictures.regions", fewest=0, most=MANY, flags=CHECKPOINT + DATA),
        Kind("cells", "a text colored by single cells of a recurrent network", "RUN [--text FILE]", "zoo.pictures.cells",
             flags=(*CHECKPOINT, "text", "units"), task="language-modeling"),
        Kind("path", "where an agent goes when it is told where to, from above", "RUN", "zoo.pictures.paths",
             flags=CHECKPOINT + DATA, task="navigation"),
        Kind("gradient-flow", "gradients through time, of a vanilla recurrent network beside an LSTM", "",
             "zoo.pictures.gradient_flow", fewest=0, most=0),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A picture that was written: where, what to look for in it, and the command that goes on from there."""

    path: Path
    look_for: str
    next: str


def write_picture(registry: Registry, kind_name: str, names: list[str], output: str = "", **flags: Any) -> Drawn:
    """Draw one picture and write it as PNG.

    Args:
        kind_name: a key of ``KINDS``.
        names: runs, by name or path, exported files where weights are enough, or models where the kind takes them; then image
            files where it takes those.
        output: the file; by default it is named after the run and the kind, in the current folder.
        flags: options of the command that were given; empty ones count as not given.

    Raises:
        UserError: an unknown name, an option or a number of runs that the kind does not take, a run that does not fit the
            kind, or a file that cannot be written.
    """
    if kind_name not in KINDS:
        raise unknown("picture", kind_name, KINDS)
    kind = KINDS[kind_name]
    given = {flag: value for flag, value in flags.items() if value}
    if strange := [flag for flag in given if flag not in kind.flags]:
        takes = ", ".join(FLAGS[flag] for flag in kind.flags)
        raise UserError(f"{kind.name} takes no {FLAGS[strange[0]]}: {f'it takes {takes}' if takes else 'leave it out'}")
    if kind.takes_images and len(names) > kind.most:
        given["images"] = names[kind.most :]
        names = names[: kind.most]
    if not kind.fewest <= len(names) <= kind.most:
        raise UserError(f"write it as zoo picture {kind.call}: {len(names) or 'no'} runs were given")
    if "data" in given:
        registry.data_set(given["data"])
    subjects = [_find(registry, kind, name) for name in names]
    from zoo.training.run_folder import RunFolder

    found = [subject for subject in subjects if not isinstance(subject, Entry)]
    task = kind.task
    for folder in found:
        if "checkpoint" not in kind.flags and not isinstance(folder, RunFolder):
            raise UserError(f"zoo picture {kind.name} needs the records of a training, which {folder.name} lacks: name a run")
        model = registry.model(folder.read_run().model["name"])
        task = model.task
        if kind.task and task not in (kind.task, *kind.other_modules):
            raise UserError(f"zoo picture {kind.name} is for {kind.task}, and {folder.name} is a {model.name}, for {model.task}")
    if "checkpoint" in given and not found:
        raise UserError("--checkpoint goes with a run, and none is given")
    for folder in found if "checkpoint" in kind.flags else ():
        folder.checkpoint(given.get("checkpoint", "best"))

    from zoo.pictures.figure import check_output, style, write_png

    path = Path(output or _default_file(kind, subjects, given))
    check_output(path)
    with style():
        picture = kind.draw(registry, subjects, task, **given)
        write_png(picture.figure, path)
    return Drawn(path, picture.look_for, picture.next)


def _find(registry: Registry, kind: Kind, name: str) -> Subject:
    """The run of that name or path, the exported file, or else the model."""
    from zoo.training.run_folder import RunFolder, known_runs

    if name.endswith(".safetensors") and Path(name).is_file():
        from zoo.training.exported import ExportedFile

        return ExportedFile(Path(name))
    try:
        return RunFolder.find(name)
    except UserError:
        if not kind.takes_models:
            raise
        if name in registry.models:
            return registry.model(name)
        raise unknown("run or model", name, [*known_runs(), *registry.models], "`zoo list` shows the models") from None


def _default_file(kind: Kind, subjects: list[Subject], given: dict[str, Any]) -> str:
    if len(subjects) == 1:
        only = subjects[0]
        name = only.name if isinstance(only, Entry) else only.path.resolve().name.removesuffix(".safetensors")
        return f"{name}-{kind.name}.png"
    return f"{kind.name}.png" if subjects or "data" not in given else f"{given['data']}-{kind.name}.png"
