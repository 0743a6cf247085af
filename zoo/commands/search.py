"""``zoo search``: hyperparameter search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo.api.names import find_model
from zoo.api.search import SearchResult, plan_search, run_plan
from zoo.commands.shell import Json, Set, echo, open_registry, print_json, print_table, whole_number, zoo_command
from zoo.core.errors import Interrupted, UserError
from zoo.core.ranks import rank_zero_print
from zoo.registry.registry import Registry


def search(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Model, such as mlp.")],
    over: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=RANGE",
            help="Key and range: log:LOW..HIGH, uniform:LOW..HIGH or choice:A,B; for a grid, LOW..HIGH:POINTS. "
            "Or a W&B sweep configuration with ranges.",
        ),
    ] = [],  # noqa: B006
    data: Annotated[
        str,
        typer.Option(metavar="DATA", help="Data set, or a folder or table of images; the default is the model's own."),
    ] = "",
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Number of training epochs of each trial.")] = None,
    settings: Set = [],  # noqa: B006
    trials: Annotated[
        str | None, typer.Option(metavar="N", help="Total number of trials; default 20, or the whole grid.")
    ] = None,
    sampler: Annotated[str, typer.Option(metavar="NAME", help="random, grid or tpe (tree-structured Parzen).")] = "random",
    pruner: Annotated[str, typer.Option(metavar="NAME", help="Early stopping of bad trials: none, median or asha.")] = "none",
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="Validation metric to optimize, such as loss; the default is the model's own.")
    ] = "",
    folds: Annotated[str, typer.Option(metavar="K", help="K-fold cross-validation of each trial.")] = "1",
    workers: Annotated[
        str, typer.Option(metavar="N", help="Parallel processes, each with a GPU of its own if there are several.")
    ] = "1",
    study: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the study; default MODEL-DATA.")] = None,
    storage: Annotated[
        str, typer.Option(metavar="URL", help="Database to share the study between machines, such as postgresql://...")
    ] = "",
    seed: Annotated[str, typer.Option(metavar="N", help="Seed of the sampler; training has its own, recipe.seed.")] = "0",
    show: Annotated[bool, typer.Option("--show", help="Only show the results so far.")] = False,
    wandb_sweep: Annotated[str, typer.Option(metavar="FILE", help="Only write the search as a W&B sweep configuration.")] = "",
    json: Json = False,
) -> None:
    """Search hyperparameters by a validation metric. Run the same command again to continue a study.

    [bold]zoo search mlp --over recipe.lr=log:1e-4..1e-1 --over model.dropout=uniform:0..0.5 --trials 30[/bold]\n
    [bold]zoo search mlp --over 'model.hidden_sizes=choice:\\[64],\\[256,128]' --sampler grid --folds 5[/bold]\n
    [bold]zoo search resnet20 --over recipe.lr=log:1e-2..1 --sampler tpe --pruner median --workers 4[/bold]\n
    [bold]zoo search mlp --show[/bold]   results so far
    """
    registry = open_registry(context)
    from zoo.config.resolution import data_section

    data_name = data_section(registry, data)["name"] if data else find_model(name).data
    where = (f"{name}-{data_name}" if study is None else study, storage)
    if show:
        if over or settings or trials or wandb_sweep:
            raise UserError("--show only prints the results: omit the options that define a search")
        from zoo.studies.study import StudyLocation, find

        location = StudyLocation(*where)
        found = SearchResult(*find(location, registry), location)
        _print_search(registry, found, json, zoo_command(context))
        if found.is_over:
            found.require_a_result()
        return
    numbers = {
        "folds": whole_number("--folds", folds),
        "seed": whole_number("--seed", seed, 0),
        "workers": whole_number("--workers", workers),
        "trials": None if trials is None else whole_number("--trials", trials),
    }
    plan, budget = plan_search(
        name, over, data, epochs=epochs, settings=settings, sampler=sampler, pruner=pruner, metric=metric, plugins=context.obj,
        **numbers,
    )  # fmt: skip
    if wandb_sweep:
        from zoo.studies.wandb_sweep import write_sweep

        write_sweep(Path(wandb_sweep), registry, plan, budget, where[0])
        echo(f"{wandb_sweep} is written. next: wandb sweep {shlex.quote(wandb_sweep)}")
        return
    from zoo.studies.study import hide_password

    try:
        found = run_plan(plan, budget, *where)
    except Interrupted as stopped:
        again = shlex.join(["zoo", *map(hide_password, sys.argv[1:])])
        rank_zero_print(f"{stopped}. To continue: {again}")
        sys.exit(130)
    _print_search(registry, found, json, zoo_command(context))
    found.require_a_result()


def _print_search(registry: Registry, found: SearchResult, json: bool, zoo: str) -> None:
    from zoo.studies.report import records, table, write_best, write_picture

    plan, study, location = found.plan, found.study, found.location
    best, picture = write_best(study, location, plan, registry), write_picture(study, location, plan)
    if json:
        files = {"config": str(best), "picture": str(picture)} if best else {}
        print_json({"study": location.name, "metric": f"val/{plan.metric}", **files, "trials": records(study, plan)})
        return
    print_table(*table(study, plan))
    if best is not None:
        echo("", f"{location.folder}/   {best.name}  {picture.name}  trials/")
        echo(f"next: {zoo} train --config {shlex.quote(str(best))}")
    elif not found.is_over:
        echo("", "no trial is complete yet. next: run the command that started the study again to continue it")
