"""Train the models that come along: ``python -m zoo.trained.make resnet20.digits`` writes its file and its card beside this one.

``TABLE`` holds what people decide. What is measured goes into the file, from which ``zoo list --trained`` and the card have it.
Data in files is found as by ``zoo train``: ``python -m zoo.trained.make mlp.mnist --set data.root=FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from zoo.api.trained import load
from zoo.api.training import train
from zoo.core.errors import UserError
from zoo.core.files import replace_file, replacing_path
from zoo.registry.registry import current_registry
from zoo.training.checkpoints import read_checkpoint
from zoo.training.exported import read_exported, write_exported
from zoo.training.run_folder import temporary_runs
from zoo.training.trained_models import ABOUT, FOLDER, TrainedModel, trained_models

LICENSE = "Apache-2.0"  # of the weights, as of the project
HALF_KEEPS = 2e-3  # the relative change of the main metric up to which weights are stored in half precision
PACKAGES = ("bestiary", "torch", "lightning")

UCI = (
    "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C50P49), CC BY 4.0: the 1,797 images of 8x8 pixels that come with bestiary."
)
MNIST = (
    "MNIST (Yann LeCun and Corinna Cortes 1998, from forms of NIST), CC BY-SA 3.0: 70,000 images of 28x28 pixels, with the "
    "official test split."
)
DIGITS_ONLY = "Knows one centered digit per image, white on black, as scanned from paper; anything else is called a digit, too."
WORLDS = "Drawn by bestiary itself from a seed, so without a license of others."


@dataclass(frozen=True)
class Plan:
    """What a trained model is made by.

    Attributes:
        model, data_set, epochs, settings: what ``zoo train`` is given; without epochs, those of the recipe.
        data: what it is trained on, with source and license.
        limits: what it is not for.
        test: arguments of ``zoo test`` after the name, for data that neither comes along nor is downloaded.
    """

    model: str
    data_set: str
    data: str
    limits: str
    epochs: int | None = None
    settings: tuple[str, ...] = ()
    test: str = ""

    @property
    def command(self) -> str:
        epochs = ["--epochs", str(self.epochs)] if self.epochs else []
        given = [word for setting in self.settings for word in ("--set", setting)]
        return shlex.join(["zoo", "train", self.model, "--data", self.data_set, *epochs, *given])


TABLE = {
    "lstm.adding-problem": Plan(
        "lstm",
        "adding-problem",
        f"The adding problem (Hochreiter and Schmidhuber 1997), new sequences in each epoch. {WORLDS}",
        "Adds the two marked numbers of a sequence of 150 steps; other lengths and ranges were not trained.",
        epochs=10,
    ),
    "mlp.digits": Plan("mlp", "digits", UCI, DIGITS_ONLY),
    "mlp.mnist": Plan("mlp", "mnist", MNIST, DIGITS_ONLY),
    "navigator.rooms": Plan(
        "navigator",
        "rooms",
        f"Instructions through small houses. {WORLDS}",
        "Follows the phrasings of its synthetic houses; other English and other views were not trained.",
    ),
    "resnet20.digits": Plan("resnet20", "digits", UCI, DIGITS_ONLY),
    "resnet20.mnist": Plan("resnet20", "mnist", MNIST, DIGITS_ONLY, epochs=3, settings=("model.width=8",)),
}


def make(name: str, settings: list[str]) -> TrainedModel:
    """Train a model of the table, and write its file and its card.

    Args:
        settings: of where its data is, which are not kept.

    Raises:
        UserError: what training raises.
    """
    plan = TABLE[name]
    with temporary_runs(), tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        chosen = [*plan.settings, *settings]
        run = train(plan.model, plan.data_set, epochs=plan.epochs, settings=chosen, name=name)
        seconds = round(time.monotonic() - began)
        checkpoint, metric = read_checkpoint(run.file), f"test/{run.model.monitor}"
        for precision in ("half", "single"):
            trial = Path(folder) / f"{name}.safetensors"
            write_exported(checkpoint, trial, half=precision == "half")
            tested = dict(load(trial).test(settings=settings))
            if abs(tested[metric] - run.metrics[metric]) <= HALF_KEEPS * abs(run.metrics[metric]):
                break
        versions = {package: metadata.version(package) for package in PACKAGES}
        measured = {"metric": metric, "metrics": tested, "seconds": seconds, "precision": precision, "versions": versions}
        return _write(name, checkpoint, measured)


def describe(name: str) -> TrainedModel:
    """Write the texts of the table and the card of a model again, around the same weights.

    Raises:
        UserError: there is no such file yet, or another command trained it.
    """
    model = trained_models().get(name)
    if model is None or model.command != TABLE[name].command:
        raise UserError(f"{name}: no file was trained by `{TABLE[name].command}`: omit --describe")
    measured = {key: getattr(model, key) for key in ("metric", "metrics", "seconds", "precision", "versions")}
    return _write(name, read_exported(model.file), measured)


def _write(name: str, checkpoint: dict[str, Any], measured: dict[str, Any]) -> TrainedModel:
    """Write the file and the card of a model."""
    plan, file = TABLE[name], FOLDER / f"{name}.safetensors"
    texts = {"command": plan.command, "test": f"zoo test {name} {plan.test}".rstrip(), "license": LICENSE}
    about = {**measured, **texts, "data": plan.data, "limits": plan.limits}
    with replacing_path(file) as beside:
        write_exported(checkpoint, beside, half=measured["precision"] == "half", **{ABOUT: json.dumps(about)})
    trained_models.cache_clear()
    model = trained_models()[name]
    replace_file(model.card, card(model).encode())
    return model


def card(model: TrainedModel) -> str:
    """The model card, as Markdown."""
    entry, network = current_registry().model(model.model), load(model.file).model
    parameters = sum(parameter.numel() for parameter in network.parameters())
    metrics = "\n".join(f"| {name.removeprefix('test/')} | {value:.4g} |" for name, value in model.metrics.items())
    kept = {key: model.run[key] for key in ("model", "data", "recipe")}
    versions = ", ".join(f"{package} {version}" for package, version in model.versions.items())
    return f"""\
# {model.name}

{entry.summary.rstrip(".")}. Task: {network.task}. Parameters: {parameters:,}; {model.bytes / 1e6:.2f} MB in
{model.precision} precision.

Use: `zoo {network.use_command.format(run=model.name)}`

## Data

{model.data}

## Metrics

On the test split, as `{model.test}` repeats:

| metric | value |
|---|---|
{metrics}

One training, with seed {model.run["recipe"]["seed"]}; the epoch that was best by validation was kept.

## Limits

{model.limits}

## Training

`{model.command}` took {model.seconds} seconds on one thread of a CPU, with {versions}.

```yaml
{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}```

## License

Weights: {model.license}. The data has its own, above.
"""


def main() -> None:
    """Make the models that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all of the table")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="where the data is")
    parser.add_argument("--describe", action="store_true", help="write the texts of the table again, around the same weights")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(TABLE)):
        parser.error(f"{unknown[0]}: choose from {', '.join(TABLE)}")
    for name in given.names or TABLE:
        try:
            model = describe(name) if given.describe else make(name, given.settings)
        except UserError as error:
            parser.error(str(error))
        print(f"{name}: {model.metric} {model.metrics[model.metric]:.4g}, {model.bytes / 1e6:.2f} MB, {model.seconds} s")


if __name__ == "__main__":
    main()
