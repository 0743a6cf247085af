"""``zoo check`` and ``zoo doctor``: test a model, a data set, and this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zoo.commands.shell import Json, SetModelAndData, echo, open_registry, print_json
from zoo.core.errors import UserError, unknown
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry


def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model or data set, also of a plugin.")],
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Compare the gradients of a model with finite differences.")
    ] = False,
    settings: SetModelAndData = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Check that a model or data set, for example from a plugin, satisfies the contract of the zoo.

    [bold]zoo --plugin mine.py check mine[/bold]\n
    [bold]zoo check folder --set data.root=photos[/bold]   a data set in files\n
    [bold]zoo check resnet20 --set data.name=shapes-labels[/bold]   a model on other data\n
    [bold]zoo check resnet20 --gradients[/bold]   analytic gradients against central differences
    """
    registry = open_registry(context)
    if name not in registry.models and name not in registry.data:
        raise unknown("model or data set", name, [*registry.models, *registry.data], "`zoo list` and `zoo data list` show them")
    entry = registry.model(name) if name in registry.models else registry.data_set(name)
    from zoo.config.settings import parse_setting

    given = [parse_setting(text, ("model", "data") if entry.kind == "model" else ("data",)) for text in settings]
    if gradients:
        _check_gradients(registry, entry, given, json)
        return
    from zoo.checks.contract import check_entry

    results = check_entry(registry, entry, given)
    if json:
        print_json([vars(result) for result in results])
    else:
        for result in results:
            echo(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}{': ' + result.detail if result.detail else ''}")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _check_gradients(registry: Registry, entry: Entry, settings: list[dict[str, dict[str, Any]]], json: bool) -> None:
    if entry.kind != "model":
        raise UserError(f"--gradients is for models; {entry.name} is a data set")
    from zoo.checks.gradients import check_gradients

    results = []
    for result in check_gradients(registry, entry, settings=settings):  # slow for a large network: print results as they come
        results.append(result)
        if not json:
            shape, verdict = "x".join(map(str, result.shape)), "ok  " if result.passed else "FAIL"
            kinks = f", {result.kinks} skipped at kinks" if result.kinks else ""
            echo(f"{verdict}  {result.name} {shape}: error {result.error:.1e} at {result.compared} points{kinks}", flush=True)
    failed = [result.name for result in results if not result.passed]
    if json:
        print_json([result.to_dict() for result in results])
    elif not results:
        echo(f"{entry.name} has no parameters to check")
    else:
        echo("", f"{len(results) - len(failed)} of {len(results)} gradients agree with finite differences")
    if failed:
        raise typer.Exit(1)


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check this machine: versions, devices, folders, plugins."""
    from zoo.checks.machine import check_machine

    findings = check_machine(open_registry(context))
    if json:
        print_json([vars(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            echo(f"{'    ' if finding.good else 'FAIL'} {finding.name.ljust(width)}  {finding.text}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)
