"""``zoo diagnose``: checks before a long training."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from zoo.commands.finetune import Freeze, Weights, resolve_either
from zoo.commands.shell import Json, Set, echo, open_registry, print_json, zoo_command
from zoo.commands.train import DataName
from zoo.core.errors import some


def diagnose(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model, such as resnet20, or a backbone as zoo finetune takes it.")
    ],
    data: DataName = "",
    weights: Weights = "",
    freeze: Freeze = None,
    settings: Set = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Check a network on its data before a long training; exit code 1 if a check fails.

    Checks the initial loss, activations and gradients in each layer, overfitting of a single batch, and the learning rate.

    [bold]zoo diagnose resnet20[/bold]   on the built-in digits\n
    [bold]zoo diagnose vit --data photos/[/bold]   on your own images\n
    [bold]zoo diagnose mlp --set model.init=large-normal --set recipe.lr=3[/bold]   an example that fails
    """
    registry = open_registry(context)
    run, words = resolve_either(registry, name, data, weights, freeze, settings)
    from zoo.training.examination import examine

    checks = examine(registry, run)
    findings = [finding for check in checks for finding in check.findings]
    if json:
        print_json({"model": name, "data": run.data["name"], "checks": [check.to_dict() for check in checks]})
    else:
        for check in checks:
            names = dict.fromkeys(finding.name for finding in check.findings)
            echo(f"{check.name:27}{check.state:9}{f'{some(names)}: ' if names else ''}{check.summary}")
        for finding in findings:
            echo("", *str(finding).split("\n"))
        fixes = [finding.remedy.removeprefix("--set ") for finding in findings if finding.remedy.startswith("--set ")]
        kept = [text for text in settings if text.partition("=")[0] not in {each.partition("=")[0] for each in fixes}]
        chosen = [word for text in [*kept, *dict.fromkeys(fixes)] for word in ("--set", text)]
        command = f"{zoo_command(context)} {shlex.join([*words, *chosen])}"
        echo("", f"next{', with these fixes' if findings else ''}: {command}")
    if findings:
        sys.exit(1)
