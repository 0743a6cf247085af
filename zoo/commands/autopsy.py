"""``zoo autopsy``: find the first operation with a non-finite value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.commands.shell import Json, echo, open_registry, print_json
from zoo.core.errors import UserError, near_path


def autopsy(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run whose loss became nan, or its autopsy.pt.")],
    json: Json = False,
) -> None:
    """Repeat the training step whose loss or gradient became nan or infinite, and find the layer and operation that caused it.

    [bold]zoo autopsy resnet20-digits[/bold]\n
    [bold]zoo autopsy runs/resnet20-digits/autopsy.pt --json[/bold]

    Exit code: 1 if the fault occurs again, 0 if not.
    """
    registry = open_registry(context)
    path = _file(run)
    from functools import partial

    from zoo.training.autopsy import replay_step
    from zoo.training.building import load_task
    from zoo.training.trainer import silence_lightning

    silence_lightning()
    result = replay_step(partial(load_task, registry, must_be_finite=False), path)
    if json:
        print_json(result)
    else:
        echo(
            f"{result.network} on {result.data}: step {result.step}, batch {result.batch} of epoch {result.epoch}, "
            f"on {result.trained_on} in precision {result.precision}"
        )
        _print_anomaly(result.again or result.found)
        where = "" if result.device == result.trained_on else f" on {result.device}"
        if result.again is None:
            echo(f"repeated{where}: the fault does not occur")
        elif result.found is None or str(result.again) == str(result.found):
            echo(f"repeated{where}: the same fault occurs")
        else:
            echo(f"repeated{where}: another fault occurs; during training it was {result.found.what}: {result.found}")
    if result.again is not None:
        raise typer.Exit(1)


def _file(run: str) -> Path:
    from zoo.training.run_folder import RunFolder

    if run.endswith(".pt"):
        if not Path(run).is_file():
            raise UserError(f"{run}: no such file{near_path(Path(run))}")
        return Path(run)
    folder = RunFolder.find(run)
    path = folder.autopsy_file
    if not path.is_file():
        raise UserError(f"run {folder.name} has no autopsy.pt: its losses and gradients were all finite")
    return path


def _print_anomaly(anomaly: Any) -> None:
    if anomaly is None:
        return
    echo(f"{anomaly.what}: {anomaly}")
    if anomaly.kind == "operation":
        for summary in anomaly.inputs:
            echo(f"  in   {_describe(summary)}")
        echo(f"  out  {_describe(anomaly.output)}")


def _describe(summary: dict[str, Any]) -> str:
    shape = "x".join(map(str, summary["shape"])) or "a number"
    bounds = f"  {summary['min']:.6g} to {summary['max']:.6g}" if "min" in summary else ""
    bad = "".join(f"  {summary[key]:,} {key}" for key in ("nan", "inf") if summary.get(key))
    return f"{shape}  {summary['dtype']}{bounds}{bad}"
