"""``zoo tune``: a learning rate and a batch size, before training."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.finetune import Freeze, Weights, resolve_either
from zoo.commands.shell import Json, Set, open_registry, print_json, print_table, zoo_command
from zoo.commands.train import DataName
from zoo.core.errors import UserError, unknown

if TYPE_CHECKING:
    from zoo.config.recipe import Run

PARTS = ("lr", "batch")
FOUND = ("recipe.lr", "recipe.batch_size")
LIMITS = {
    "data": "which is all there is for training",
    "memory": "more would not fit into memory",
    "time": "a step with twice as many would take too long to be tried",
}


def tune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, as in resnet20, or a backbone as zoo finetune takes it.")],
    data: DataName = "",
    weights: Weights = "",
    freeze: Freeze = None,
    settings: Set = [],  # noqa: B006
    only: Annotated[str, typer.Option(metavar="PART", help="lr or batch; the default is both.")] = "",
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Draw the range test into this PNG.")] = "",
    json: Json = False,
) -> None:
    """Find a learning rate, and the largest batch that fits, by short trials of which nothing stays behind.

    [bold]zoo tune resnet20[/bold]   on digits\n
    [bold]zoo tune resnet20 -o rates.png[/bold]   and the loss over the rate as a picture\n
    [bold]zoo tune vit --data folder --set data.root=photos --only lr[/bold]   on your pictures, one folder a class\n
    [bold]zoo tune mlp --set recipe.batch_size=512[/bold]   the rate for another batch\n
    [bold]zoo tune efficientnet-lite0 --freeze backbone --only lr[/bold]   the rate for a new head on published weights

    A model is trained from the start unless --freeze or --weights is given; any other backbone is fine-tuned.
    """
    registry = open_registry(context)
    if only and only not in PARTS:
        raise unknown("part", only, PARTS)
    if output and only == "batch":
        raise UserError(f"--output {output}: only the range test is drawn, leave out --only batch")
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
    """What was found, as plain data: ``lr``, ``batch_size``, and each search in full."""
    from zoo.training.tuning import counts_images, open_subject, range_test, search_batch, with_batch

    def tell(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    subject = open_subject(registry, run)
    found: dict[str, Any] = {"lr": run.recipe.lr, "batch_size": run.recipe.batch_size}
    if only == "batch" or (not only and counts_images(subject)):
        tell("batch size: real steps of training and validation, twice as large each time")
        batch = search_batch(subject)
        found |= {"batch_size": min(run.recipe.batch_size, batch.largest), "batch_search": batch.to_dict()}
        subject = with_batch(subject, found["batch_size"])
    if only != "batch":
        tell("learning rate: up to 100 steps, with a higher rate at each")
        test = range_test(subject)
        found |= {"lr": test.suggestion or run.recipe.lr, "range_test": test.to_dict()}
        if output:
            from zoo.pictures.figure import style, write_png
            from zoo.pictures.range_test import draw_range_test

            with style():
                title = f"{run.model['name']} on {run.data['name']}, batches of {found['batch_size']}"
                write_png(draw_range_test(test, run.recipe.lr, title), Path(output))
            found["picture"] = output
    return found


def _train_command(command: str, words: list[str], settings: list[str], found: dict[str, Any]) -> str:
    """The command that trains with what was found; ``words`` and ``settings`` are those that it was found with."""
    kept = [text for text in settings if text.partition("=")[0].strip() not in FOUND]
    settings = [*kept, f"recipe.lr={found['lr']:g}", f"recipe.batch_size={found['batch_size']}"]
    return f"{command} {shlex.join([*words, *(word for text in settings for word in ('--set', text))])}"


def _print(run: Run, found: dict[str, Any], again: str) -> None:
    if "batch_search" in found:
        _print_batches(run, found["batch_search"], found["batch_size"])
    if "range_test" in found:
        print(f"learning rate  {_told_of_rates(run, found)}")
    if "picture" in found:
        print(f"{found['picture']}: the loss over the rate; it should fall towards the suggestion and rise steeply behind it")
    print(f"next: {again}")


def _told_of_rates(run: Run, found: dict[str, Any]) -> str:
    test, former = found["range_test"], f"{run.recipe.lr:g} of the recipe"
    if test["suggestion"] is None:
        return f"the loss did not fall at any rate from {test['rates'][0]:g} to {test['rates'][-1]:g}, so {former} stays"
    end = f"diverged above {test['rates'][-1]:.2g}" if test["diverged"] else f"was still finite at {test['rates'][-1]:.2g}"
    return f"{test['suggestion']:g} instead of {former}: there the loss was lowest, and it {end}"


def _print_batches(run: Run, search: dict[str, Any], batch_size: int) -> None:
    def megabytes(memory: int | None) -> str:
        return "?" if memory is None else f"{memory / 1e6:,.0f}"

    rows = [
        (f"{t['batch_size']:,}", megabytes(t["memory"]), f"{t['batch_size'] / t['seconds']:,.0f}")
        for t in sorted(search["trials"], key=lambda t: t["batch_size"])
    ]
    header = ("batch", "MB", "images/s")
    print_table(rows, header, numbers=header)
    of = f" of {search['available'] / 1e6:,.0f} MB available" if search["available"] else ""
    print(f"batch size     {search['largest']:,} fits{of}, {LIMITS[search['limit']]}")
    if batch_size < run.recipe.batch_size:
        print(f"               the {run.recipe.batch_size} of the recipe do not: {batch_size}")
    elif search["largest"] > batch_size:
        print(f"               {batch_size} of the recipe stay; for another, with a rate of its own: --set {FOUND[1]}=N")
