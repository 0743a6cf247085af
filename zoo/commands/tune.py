"""``zoo tune``: suggest a learning rate and a batch size, or calibrate the probabilities of a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.api.trained import load
from zoo.commands.finetune import Freeze, Weights, resolve_either
from zoo.commands.shell import Json, Set, echo, open_registry, print_json, print_table, zoo_command
from zoo.commands.train import DataName
from zoo.core.errors import UserError, unknown
from zoo.core.ranks import rank_zero_print

if TYPE_CHECKING:
    from zoo.config.run import Run
    from zoo.training.calibrating import Calibration
    from zoo.training.tuning import BatchSearch

PARTS = ("lr", "batch")
FOUND = ("recipe.lr", "recipe.batch_size")
SPLIT_NAMES = {"val": "validation", "test": "test"}
LIMITS = {
    "data": "the whole training set",
    "memory": "a larger one runs out of memory",
    "time": "a step of twice the size would take too long to try",
}


def tune(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Model, such as resnet20, or a backbone as zoo finetune takes it; to calibrate, a run."
        ),
    ],
    data: DataName = "",
    weights: Weights = "",
    freeze: Freeze = None,
    settings: Set = [],  # noqa: B006
    only: Annotated[str, typer.Option(metavar="PART", help="Tune only lr or batch; default both.")] = "",
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Plot loss over learning rate to this PNG.")] = "",
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Fit the temperature of a run's probabilities on its validation images and keep it, or set it to 1 again.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find a learning rate (range test) and the largest batch that fits in memory; or calibrate a run (temperature scaling).

    [bold]zoo tune resnet20[/bold]   on the built-in digits\n
    [bold]zoo tune resnet20 -o rates.png[/bold]   with a plot of loss over learning rate\n
    [bold]zoo tune vit --data photos/ --only lr[/bold]   on your own images, one folder per class\n
    [bold]zoo tune mlp --set recipe.batch_size=512[/bold]   the learning rate for this batch size\n
    [bold]zoo tune efficientnet-lite0 --freeze backbone --only lr[/bold]   the learning rate of a new head\n
    [bold]zoo tune resnet20-digits --calibrate[/bold]   calibrated probabilities from a trained classifier

    A model is trained from scratch unless --freeze or --weights is given; any other backbone is fine-tuned.
    """
    registry = open_registry(context)
    if calibrate is not None:
        given = {"--data": data, "--weights": weights, "--freeze": freeze, "--set": settings, "--only": only, "--output": output}
        if strange := [flag for flag, value in given.items() if value]:
            flag = "--calibrate" if calibrate else "--no-calibrate"
            raise UserError(f"{flag} takes a run alone, with the data that it was trained on: omit {strange[0]}")
        _calibrate(context, name, calibrate, json)
        return
    if only and only not in PARTS:
        raise unknown("part", only, PARTS)
    if output and only == "batch":
        raise UserError(f"--output {output}: it is a plot of the range test: omit --only batch")
    run, words = resolve_either(registry, name, data, weights, freeze, settings)
    if output:
        from zoo.pictures.figure import check_output

        check_output(Path(output))
    found = _tune(registry, run, only, output, quiet=json)
    again = _train_command(zoo_command(context), words, settings, found)
    if json:
        print_json({"model": name, "data": run.data["name"], **found, "next": again})
    else:
        _print(run, found, again)


def _tune(registry: Any, run: Run, only: str, output: str, quiet: bool) -> dict[str, Any]:
    """Run the searches; return ``lr``, ``batch_size``, and the results of each."""
    from zoo.training.tuning import build_setup, range_test, search_batch, with_batch_size

    def log(text: str) -> None:
        if not quiet:
            rank_zero_print(text)

    setup = build_setup(registry, run)
    found: dict[str, Any] = {"lr": run.recipe.lr, "batch_size": run.recipe.batch_size}
    if only == "batch" or (not only and setup.data.has_samples):
        log("batch size: training and validation steps of doubling size")
        batch = search_batch(setup)
        found |= {"batch_size": min(run.recipe.batch_size, batch.largest), "batch_search": batch}
        setup = with_batch_size(setup, found["batch_size"])
    if only != "batch":
        log("learning rate: up to 100 steps of increasing learning rate")
        test = range_test(setup)
        found |= {"lr": test.suggestion or run.recipe.lr, "range_test": test}
        if output:
            from zoo.pictures.figure import style, write_png
            from zoo.pictures.range_test import draw_range_test

            with style():
                title = f"{run.model['name']} on {run.data['name']}, batches of {found['batch_size']}"
                write_png(draw_range_test(test, run.recipe.lr, title), Path(output))
            found["picture"] = output
    return found


def _train_command(command: str, words: list[str], settings: list[str], found: dict[str, Any]) -> str:
    """The command that trains with the result; ``words`` and ``settings`` are those of this one."""
    kept = [text for text in settings if text.partition("=")[0].strip() not in FOUND]
    settings = [*kept, f"recipe.lr={found['lr']:g}", f"recipe.batch_size={found['batch_size']}"]
    return f"{command} {shlex.join([*words, *(word for text in settings for word in ('--set', text))])}"


def _print(run: Run, found: dict[str, Any], again: str) -> None:
    if "batch_search" in found:
        _print_batches(run, found["batch_search"], found["batch_size"])
    if "range_test" in found:
        echo(f"learning rate  {_describe_rates(run, found)}")
    if "picture" in found:
        echo(f"{found['picture']}: loss over learning rate, lowest near the suggestion, diverging to its right")
    echo(f"next: {again}")


def _describe_rates(run: Run, found: dict[str, Any]) -> str:
    test, former = found["range_test"], f"the recipe's {run.recipe.lr:g}"
    if test.suggestion is None:
        return f"the loss did not fall at any rate from {test.rates[0]:g} to {test.rates[-1]:g}, so keep {former}"
    end = f"diverged above {test.rates[-1]:.2g}" if test.diverged else f"was still finite at {test.rates[-1]:.2g}"
    return f"{test.suggestion:g} instead of {former}: lowest loss; it {end}"


def _print_batches(run: Run, search: BatchSearch, batch_size: int) -> None:
    def megabytes(memory: int | None) -> str:
        return "?" if memory is None else f"{memory / 1e6:,.0f}"

    rows = [
        (f"{trial.batch_size:,}", megabytes(trial.memory), f"{trial.batch_size / trial.seconds:,.0f}")
        for trial in sorted(search.trials, key=lambda trial: trial.batch_size)
    ]
    header = ("batch", "MB", "images/s")
    print_table(rows, header, numbers=header)
    of = f" of {search.available / 1e6:,.0f} MB available" if search.available else ""
    echo(f"batch size     {search.largest:,} fits{of}, {LIMITS[search.limit]}")
    if batch_size < run.recipe.batch_size:
        echo(f"               the recipe's {run.recipe.batch_size} does not: {batch_size}")
    elif search.largest > batch_size:
        echo(f"               keep the recipe's {batch_size}; to tune the learning rate for another: --set {FOUND[1]}=N")


def _growth_of_error(found: Calibration) -> str:
    """How the calibration error grew on the test images, or else on those that the temperature was fitted on; empty if not."""
    split = "test" if "test" in found.after else "val"
    former, new = (f"{each[split].calibration_error:.4f}" for each in (found.before, found.after))
    return f"the calibration error on the {SPLIT_NAMES[split]} images grew from {former} to {new}" if new > former else ""


def _calibrate(context: typer.Context, name: str, is_on: bool, json: bool) -> None:
    trained = load(name)
    found = trained.calibrate(undo=not is_on)
    again = f"{zoo_command(context)} picture calibration {shlex.quote(name)}"
    if is_on and (grown := _growth_of_error(found[0])):
        undo = f"{zoo_command(context)} tune {shlex.quote(name)} --no-calibrate"
        rank_zero_print(f"warning: {grown}: {undo} goes back to the probabilities of the training")
    if json:
        print_json({"run": name, "checkpoints": found, "next": again})
        return
    rows = []
    for each in found:
        fitted = f"fitted on {each.images:,} validation images" if is_on else "as in training"
        echo(f"{each.checkpoint}.ckpt  temperature {each.temperature:.4g}, {fitted}")
        for split, after in each.after.items():
            before = each.before[split]
            pairs = ((before.calibration_error, after.calibration_error), (before.loss, after.loss))
            changes = (f"{former:.4f} -> {new:.4f}" for former, new in pairs)
            rows.append((f"{each.checkpoint}.ckpt", split, *changes, f"{after.accuracy:.4f}"))
    print_table(rows, ("checkpoint", "split", "calibration error", "loss", "accuracy"))
    echo(f"next: {again}")
