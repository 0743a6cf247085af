"""``zoo diagnose``: a short examination before a long training."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from zoo.commands.finetune import Freeze, Weights, resolve_either
from zoo.commands.shell import Json, Set, open_registry, print_json, zoo_command
from zoo.commands.train import DataName
from zoo.core.errors import some


def diagnose(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, as in resnet20, or a backbone as zoo finetune takes it.")],
    data: DataName = "",
    weights: Weights = "",
    freeze: Freeze = None,
    settings: Set = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Examine a network on its data before a long training; exits 1 if something is wrong.

    It looks at the first loss, at activations and gradients through the depth, whether one batch can be learned by heart, and at
    which learning rates the loss falls.

    [bold]zoo diagnose resnet20[/bold]   on digits\n
    [bold]zoo diagnose vit --data folder --set data.root=photos[/bold]   on your pictures\n
    [bold]zoo diagnose mlp --set model.init=large-normal --set recipe.lr=3[/bold]   something that goes wrong
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
            print(f"{check.name:27}{check.state:9}{f'{some(names)}: ' if names else ''}{check.told}")
        for finding in findings:
            print(f"\n{finding}")
        mended = [finding.remedy.removeprefix("--set ") for finding in findings if finding.remedy.startswith("--set ")]
        kept = [text for text in settings if text.partition("=")[0] not in {each.partition("=")[0] for each in mended}]
        chosen = [word for text in [*kept, *dict.fromkeys(mended)] for word in ("--set", text)]
        command = f"{zoo_command(context)} {shlex.join([*words, *chosen])}"
        print(f"\nnext: {command}" if not findings else f"\nonce that is mended: {command}")
    if findings:
        sys.exit(1)
