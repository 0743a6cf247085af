"""``zoo list`` and ``zoo show``: list the models, and describe one."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from zoo.commands.shell import (
    Json,
    SetModelAndData,
    echo,
    name_width,
    open_registry,
    print_items,
    print_json,
    print_table,
    print_wrapped,
    setting,
    terminal_width,
)
from zoo.core.errors import UserError, did_you_mean, some, unknown
from zoo.registry.entry import KINDS, REQUIRED, Entry
from zoo.registry.listing import by_task, matching
from zoo.registry.registry import Registry
from zoo.training.trained_models import TrainedModel, trained_models


def print_list(registry: Registry, kind: str, pattern: str, task: str, json: bool, next_steps: str) -> None:
    """Print the models or data sets that match, grouped by task.

    Args:
        kind: ``model`` or ``data``.
        next_steps: the lines after the list.

    Raises:
        UserError: nothing matches.
    """
    entries = registry.models if kind == "model" else registry.data
    found = matching(entries.values(), pattern, registry.models_task(task) if kind == "model" else task)
    if json:
        print_json([entry.to_dict() for entry in found])
    elif not found:
        raise _no_match(registry, entries, pattern, task)
    else:
        _print_groups(found)
        echo("", *next_steps.split("\n"))


def _print_groups(entries: list[Entry]) -> None:
    """Print a heading for each task, and one line for each entry where its summary can be made to fit."""
    from itertools import groupby

    width = name_width(entry.name for entry in entries)
    for number, (task, group) in enumerate(groupby(entries, lambda entry: entry.task)):
        echo(*([""] if number else []), task.replace("-", " ").capitalize())
        print_items([(entry.name, _in_brief(entry, terminal_width() - width - 4)) for entry in group], width)


def _in_brief(entry: Entry, width: int) -> str:
    """The summary without markup, up to a colon; clauses are left out from the end until it fits, if it can."""
    origin = "" if entry.origin.startswith("bestiary ") else f" [{entry.origin}]"
    text = entry.summary.partition(":")[0].rstrip(".").replace("``", "")
    while len(text + origin) > width and (end := max(map(text.rfind, (", ", "; ", " (")))) > 0:
        text = text[:end]
    return text + origin


def _no_match(registry: Registry, entries: dict[str, Entry], pattern: str, task: str) -> UserError:
    """The error for a list that would be empty: where a setting of that name is, or the nearest name."""
    tasks = {*(entry.task for entry in entries.values()), *registry.entries("task")}
    if task and task not in tasks:
        return UserError(f"nothing matches '--task {task}'{did_you_mean(task, tasks)}")
    if places := _settings_named(registry, pattern):
        return UserError(f"no name or tag matches {pattern!r}, but it is {'; and it is '.join(places)}")
    words = [word for entry in entries.values() for word in (entry.name, *entry.tags, *entry.defaults)]
    near = did_you_mean(pattern, words)
    return UserError(f"nothing matches {' '.join(filter(None, (pattern, task and f'--task {task}')))!r}{near}")


def _settings_named(registry: Registry, word: str) -> list[str]:
    """Describe the options, recipe keys and choices of this name, each with a command that sets it."""
    from zoo.config.recipe import Recipe

    places, key = [], word.replace("-", "_")
    if word in registry.entries("task"):
        places.append(f"a task: zoo data list --task {word}")
    for kind, about in KINDS.items():
        entries = registry.entries(kind)
        if kind == "task":  # which is chosen by data
            continue
        section = kind if kind in ("model", "data") else f"recipe.{kind}_args"
        key_of = {"augmentation": "data.augment", "logger": "trainer.logger"}.get(kind, f"recipe.{kind}")
        choose = f"zoo train mlp --set {key_of}="
        if kind not in ("model", "data") and word in entries:
            places.append(f"{'a' if kind in ('loss', 'logger') else 'an'} {about.title}: {choose}{word}")
        having = [entry for entry in by_task(entries.values()) if entry.defaults.get(key) is not None]
        if having and kind != "augmentation":  # which takes its arguments with its name
            # one that needs no download and sets something, as an example
            shown = max(having, key=lambda entry: ("offline" in entry.tags, bool(entry.defaults[key])))
            command = {"model": f"zoo train {shown.name}", "data": f"zoo data preview {shown.name}"}.get(
                kind, choose + shown.name
            )
            example = setting(f"{section}.{key}", "VALUE" if shown.defaults[key] == "" else shown.defaults[key])
            places.append(f"an option of {some((entry.name for entry in having), 3)}: {command} --set {example}")
    if key in Recipe.model_fields:
        places.append(f"a recipe key: zoo train mlp --set {setting(f'recipe.{key}', Recipe.model_fields[key].default)}")
    return places


def list_models(
    context: typer.Context,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name or tag, or a pattern such as 'resnet*'.")
    ] = "",
    task: Annotated[str, typer.Option(metavar="TASK", help="Only models for this task, such as classification.")] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="List pretrained networks, for zoo finetune.")] = False,
    trained: Annotated[bool, typer.Option("--trained", help="List the trained models that come along.")] = False,
    optimizers: Annotated[bool, typer.Option("--optimizers", help="List optimizers for recipe.optimizer.")] = False,
    losses: Annotated[bool, typer.Option("--losses", help="List losses for recipe.loss.")] = False,
    augmentations: Annotated[bool, typer.Option("--augmentations", help="List augmentations for data.augment.")] = False,
    loggers: Annotated[bool, typer.Option("--loggers", help="List experiment trackers for --logger.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List recipes of papers for --config.")] = False,
    json: Json = False,
) -> None:
    """List the models: [bold]zoo list[/bold], [bold]zoo list residual[/bold], [bold]zoo list 'vgg*'[/bold].

    [bold]zoo list --trained[/bold] lists trained models that come along, to predict with, look into and fine-tune.\n
    [bold]zoo list --pretrained convnext[/bold] lists ImageNet weights from the zoo, torchvision and timm.
    """
    ingredients = {"optimizer": optimizers, "loss": losses, "augmentation": augmentations, "logger": loggers}
    for kind, wanted in ingredients.items():
        if wanted:
            _list_ingredients(open_registry(context), kind, pattern, json)
            return
    if recipes:
        _list_recipes(pattern, json)
        return
    if pretrained:
        _list_pretrained(open_registry(context), pattern, task, json)
        return
    if trained:
        _list_trained(open_registry(context), pattern, task, json)
        return
    first = "" if pattern or task else "first steps: zoo train mlp, then zoo report mlp-digits (a minute, no download)\n"
    next_steps = f"{first}next: zoo show NAME    zoo train NAME    zoo list --trained"
    print_list(open_registry(context), "model", pattern, task, json, next_steps)


def _list_ingredients(registry: Registry, kind: str, pattern: str, json: bool) -> None:
    """Optimizers, losses, augmentations or loggers with their arguments."""
    found = [entry for entry in registry.entries(kind).values() if pattern in entry.name]
    if not found:
        registry.find(kind, pattern)  # raises, with the nearest name
    if json:
        print_json([entry.to_dict() for entry in found])
        return
    rows = [
        (
            entry.name,
            *([entry.task] if entry.task else []),
            " ".join(f"{option.name}={option.default}" for option in entry.options),
            entry.summary.partition(" (")[0].partition(":")[0].replace("``", "").rstrip("."),
        )
        for entry in found
    ]
    print_table(rows, (kind, *(["task"] if found[0].task else []), "arguments", "description"))
    echo("", f"next: zoo train NAME {EXAMPLES[kind]}")


def _list_recipes(pattern: str, json: bool) -> None:
    from zoo.config.settings import published_recipes, read_config

    found = {name: path for name, path in published_recipes().items() if pattern in name}
    if not found:
        raise UserError(f"no recipe {pattern!r}{did_you_mean(pattern, published_recipes())}: `zoo list --recipes` shows them all")
    summaries = {name: path.read_text().partition("\n")[0].removeprefix("# ") for name, path in found.items()}
    if json:
        print_json([{"name": name, "summary": summaries[name], "path": str(found[name]), **read_config(name)} for name in found])
        return
    print_items(summaries.items(), name_width(summaries))
    echo("", *(f"{name}: {path}" for name, path in found.items()))
    echo("", f"next: zoo train resnet50 --data FOLDER/ --config {next(iter(found))}")


EXAMPLES = {
    "optimizer": "--set recipe.optimizer=sgd --set recipe.optimizer_args.momentum=0.8",
    "loss": "--set recipe.loss=hinge --set recipe.loss_args.margin=2",
    "augmentation": "--set data.augment=crop:4,hflip",
    "logger": "--logger tensorboard",
}


def _list_pretrained(registry: Registry, pattern: str, task: str, json: bool) -> None:
    from zoo.training.weights.backbones import find_backbones

    if task not in ("", "classification"):
        raise UserError(f"--task {task}: pretrained networks are for classification")
    found = find_backbones(registry, pattern)
    if json:
        print_json(found)
    elif not found:
        raise UserError(f"no weights match {pattern!r}: `zoo list --pretrained` lists all")
    else:
        numbers = ("pixels", "ImageNet top-1 %")
        print_table([backbone.row() for backbone in found], ("backbone", *numbers), numbers)
        echo("", "next: zoo finetune BACKBONE --data FOLDER/ --freeze backbone")


def _list_trained(registry: Registry, pattern: str, task: str, json: bool) -> None:
    from zoo.api.names import find_trained_models

    found = find_trained_models(pattern, task)
    if json:
        print_json([model.to_dict() for model in found])
    elif not found:
        wanted = " ".join(filter(None, (pattern, task and f"--task {task}")))
        advice = did_you_mean(pattern, trained_models()) or ": `zoo list --trained` lists all"
        raise UserError(f"no trained model matches {wanted!r}{advice}")
    else:
        rows = [
            (
                model.name,
                registry.task_of(model.model, model.data_set),
                f"{model.metric.removeprefix('test/')} {model.metrics[model.metric]:.4g}",
                f"{model.bytes / 1e6:.2f}",
            )
            for model in found
        ]
        print_table(rows, ("trained model", "task", "on its test split", "MB"), ("MB",))
        echo("", "next: zoo show NAME    zoo test NAME    zoo predict NAME IMAGE")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Model, such as resnet20, or a trained one that comes along.")],
    layers: Annotated[bool, typer.Option("--layers", help="Show a table of the layers.")] = False,
    data: Annotated[str, typer.Option(metavar="DATA", help="With --layers: data set that gives the input shape.")] = "",
    image: Annotated[str, typer.Option("--input", metavar="CxHxW", help="With --layers: input shape.")] = "",
    settings: SetModelAndData = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Describe a model: options, training recipe, compatible data sets, layers.

    [bold]zoo show resnet20[/bold]\n
    [bold]zoo show resnet20.digits[/bold]   the card of a trained model\n
    [bold]zoo show vgg16-imagenet --layers --input 3x224x224[/bold]   shapes, parameters, multiply-adds, receptive fields\n
    [bold]zoo show resnet20 --layers --data cifar10 --set model.width=32[/bold]
    """
    registry = open_registry(context)
    if name in trained_models() and name not in registry.models:
        _show_card(trained_models()[name], bool(layers or data or image or settings), json)
        return
    if "." in name and name not in registry.models:
        raise unknown("model", name, [*registry.models, *trained_models()], "`zoo list` and `zoo list --trained` show them all")
    entry = registry.model(name)
    if data:
        registry.data_set(data)
    if layers:
        _show_layers(registry, name, data, image, settings, json)
        return
    if data or image or settings:
        raise UserError("--data, --input and --set require --layers")
    if json:
        print_json(entry.to_dict())
        return
    print_entry(entry, "model")
    echo("", "recipe (--set recipe.KEY=VALUE)")
    for key, value in entry.recipe.items():
        echo(f"  {key} = {value}")
    default = " ".join([entry.data, *(f"{key}={value}" for key, value in entry.data_options.items())])
    echo("")
    print_wrapped(f"data    {', '.join(registry.data_for(entry.task, entry.tags))} (default: {default})", indent=8)
    echo(f"next    zoo train {entry.name}    zoo show {entry.name} --layers")


def _show_card(model: TrainedModel, has_options: bool, json: bool) -> None:
    if has_options:
        raise UserError(f"{model.name} is trained, and --layers, --data, --input and --set are for models: name {model.model}")
    if json:
        print_json(model.to_dict())
    else:
        print(model.card.read_text(encoding="utf-8"), end="")


def _show_layers(registry: Registry, name: str, data: str, image: str, settings: list[str], json: bool) -> None:
    from zoo.config.resolution import resolve
    from zoo.config.settings import parse_setting
    from zoo.spec import parse_image_shape

    chosen = [{"data": {"name": data}}] if data else []
    run = resolve(registry, name, {}, [*(parse_setting(text, ("model", "data")) for text in settings), *chosen])
    shape = parse_image_shape(image) if image else None
    from zoo.analysis.layer_table import tabulate

    table = tabulate(registry, run, shape)
    if json:
        print_json({"model": name, **table.to_dict()})
        return
    numbers = ("output", "parameters", "multiply-adds", "stride", "field")
    header = ("layer", "kind", *(numbers if table.has_positions else numbers[:3]))
    rows = [row.to_text()[: len(header)] for row in table.layers]
    print_table([*rows, table.total_text()[: len(header)]], header, numbers)
    taken = f"an image of {'x'.join(map(str, table.input))}" if table.input else f"a sample of {run.data['name']}"
    given = " ".join([name, *(["--data", data] if data else []), *(f"--set {shlex.quote(text)}" for text in settings)])
    check = f"    zoo check {name} --gradients" if table.parameters else ""
    echo("", f"{name} for {taken}. next: zoo train {given}{check}")


def print_entry(entry: Entry, section: str) -> None:
    print_wrapped(f"{entry.name}   {entry.summary}")
    where = f"   https://arxiv.org/abs/{entry.paper}" if entry.paper else ""
    echo(f"{entry.task}, from {entry.origin}   {' '.join(f'#{tag}' for tag in entry.tags)}{where}")
    if not entry.options:
        return
    echo("", f"options (--set {section}.KEY=VALUE)")
    items = []
    for option in entry.options:
        values = option.type.removeprefix("Literal[").removesuffix("]").replace("'", "")
        default = "(required)" if option.default == REQUIRED else f"= {option.default}"
        items.append(
            (f"{option.name} {default}", f"{option.help.rstrip('.')} ({values if 'Literal[' in option.type else option.type})")
        )
    print_items(items, name_width(name for name, _ in items))
