"""Resolve a run: defaults, the model's own recipe, a configuration file and settings, in this order, become one ``Run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.config.options import check_options, validate
from zoo.config.recipe import Recipe
from zoo.config.run import SECTIONS, Run, TrainerSettings, WandbSettings
from zoo.core.errors import UserError, did_you_mean, some, unknown
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry

OF_THE_LOSS = {"loss", "loss_args", "label_smoothing"}  # keys of a recipe
TABLES = (".csv", ".tsv", ".parquet")  # endings of paths that are tables of images


def resolve(
    registry: Registry,
    name: str | None,
    config: dict[str, Any],
    settings: list[dict[str, dict[str, Any]]],
    recipe: dict[str, Any] | None = None,
) -> Run:
    """Merge and validate a Run. Later values win: defaults, the model's recipe, config, settings in order.

    Args:
        name: model; may be omitted if the config names one.
        config: content of a configuration file, may be empty.
        settings: section -> key -> value; a dotted key sets one item of a dictionary.
        recipe: replaces the model's own recipe and augmentation.

    Raises:
        UserError: an unknown name or key, a value of the wrong type, or data that is not for the model's task.
    """
    config = dict(config)
    plugins = config.pop("plugins", None) or ()
    if not isinstance(plugins, (list, tuple)) or not all(isinstance(plugin, str) for plugin in plugins):
        raise UserError(f"plugins must be a list of files, not {plugins!r}")
    registry.add_plugins_of("the configuration", plugins)
    for layer in (config, *settings):
        for section, values in layer.items():
            if section not in SECTIONS:
                raise unknown("section", section, SECTIONS)
            if not isinstance({} if values is None else values, dict):
                hint = f": the name is {section}.name" if isinstance(values, str) and section in ("model", "data") else ""
                raise UserError(f"{section} must hold keys and values, not {values!r}{hint}")
            if section in ("model", "data") and not isinstance((values or {}).get("name") or "", (str, Path)):
                raise UserError(f"{section}.name={values['name']}: must be a name")
    name = _only_model(name, config, settings)
    if not name:
        raise UserError("no model was given: `zoo list` shows all")
    entry = registry.model(name)
    _require_one_place(registry, settings)
    config, *settings = layers = [_with_folder(registry, layer) for layer in (config, *settings)]
    data_name = next((n for layer in reversed(layers) if (n := (layer.get("data") or {}).get("name"))), None) or entry.data
    if not data_name:
        raise UserError(f"{entry.name} has no default data: --data takes {', '.join(registry.data_for(entry.task, entry.tags))}")
    data_entry = registry.data_set(data_name)
    if data_name not in (fitting := registry.data_for(entry.task, entry.tags)):
        if not fitting:
            tasks = {each.task for each in registry.data.values()}
            raise UserError(f"{entry.name} is for {entry.task!r}, and no data is{did_you_mean(entry.task, tasks)}")
        wrong = (
            f"is for {entry.task} and cannot take {data_name}, which is for {data_entry.task}"
            if data_entry.task not in registry.tasks_of(entry.task)
            else f"needs images, and {data_name} is points in the plane"
        )
        raise UserError(f"{entry.name} {wrong}: data that fits: {', '.join(fitting)}")
    if (config.get("data") or {}).get("name", data_name) != data_name:
        config = {**config, "data": {}}  # its options belong to another data set
    merged: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    own = entry.recipe if recipe is None else recipe
    if data_entry.task != entry.task:  # what it says of the loss is for classes
        own = {key: value for key, value in own.items() if key.partition(".")[0] not in OF_THE_LOSS}
    if entry.augment and recipe is None and "augment" in data_entry.defaults:
        merged["data"]["augment"] = entry.augment
    merged["data"].update(entry.data_options if data_name == entry.data else {})
    recipes = [layer.get("recipe") or {} for layer in (config, *settings)]
    own, of_config = _without_foreign_arguments([own, recipes[0]], recipes[1:])
    for layer in ({"recipe": own}, {**config, "recipe": of_config}, *settings):
        for section, values in layer.items():
            _merge(merged[section], values or {})
    merged["model"].pop("name", None)
    merged["data"].pop("name", None)
    _require_data_of_config(registry, config.get("data") or {}, data_entry, fitting)
    _require_sections(merged, entry, data_entry)
    data_options = check_options(data_entry, merged["data"])
    if "augment" in data_options:
        parse_augmentation(registry, data_options["augment"])
    trainer = validate(TrainerSettings, merged["trainer"], "trainer", "trainer key")
    for logger in trainer.logger:
        registry.find("logger", logger)
    return Run(
        model={"name": entry.name, **check_options(entry, merged["model"])},
        data={"name": data_name, **data_options},
        recipe=_with_arguments(registry, data_entry, validate(Recipe, merged["recipe"], "recipe", "recipe key")),
        trainer=trainer,
        wandb=validate(WandbSettings, merged["wandb"], "wandb", "wandb key"),
        plugins=(*registry.plugin_files, *(file for file in registry.live_files() if file not in registry.plugin_files)),
    )


def _require_data_of_config(registry: Registry, options: dict[str, Any], data: Entry, fitting: list[str]) -> None:
    """Refuse data without the options of a configuration that names none, where other data has them all."""
    if options.get("name"):
        return
    keys = {key.partition(".")[0] for key in options}
    takers = [name for name in fitting if keys <= _keys_of(registry.data_set(name))]
    if takers and (lacking := sorted(keys - _keys_of(data))):
        others = f"--data takes {some(takers)}, or the path of a folder of images"
        raise UserError(f"the configuration sets data.{lacking[0]}, which {data.name} does not have: {others}")


def _require_sections(merged: dict[str, dict[str, Any]], model: Entry, data: Entry) -> None:
    """Refuse keys in another section than their own."""
    schemas = (("recipe", Recipe), ("trainer", TrainerSettings), ("wandb", WandbSettings))
    known = {"model": _keys_of(model), "data": _keys_of(data), **{name: set(schema.model_fields) for name, schema in schemas}}
    for section, values in merged.items():
        for key in values:
            name = key.partition(".")[0]
            own = next((other for other in known if name in known[other]), "")
            if own and name not in known[section] and "network_args" not in known[section]:
                entry = {"model": model, "data": data}.get(section)
                what = f"option of {entry.name}" if entry else f"{section} key"
                raise UserError(f"no {what} {name!r}: write {own}.{key}")


def _keys_of(entry: Entry) -> set[str]:
    return {option.name for option in entry.options}


def _only_model(name: str | None, config: dict[str, Any], settings: list[dict[str, dict[str, Any]]]) -> str | None:
    """The model that was named, as an argument, in the configuration or in settings.

    Raises:
        UserError: two different ones were.
    """
    named = (config.get("model") or {}).get("name")
    if name and named and name != named:
        raise UserError(f"the configuration is for {named!r}, not {name!r}: omit one of the two")
    name = name or named
    for layer in settings:
        named = (layer.get("model") or {}).get("name")
        if name and named and name != named:
            raise UserError(f"model.name={named}: the model is {name!r}: omit one of the two")
        name = name or named
    return name


def recipe_with(model: Entry, changes: dict[str, Any]) -> Recipe:
    """A model's own recipe with changes; a dotted key sets one item of a dictionary.

    Raises:
        UserError: an unknown key or a value of the wrong type.
    """
    merged: dict[str, Any] = {}
    for layer in (*_without_foreign_arguments([model.recipe], [changes]), changes):
        _merge(merged, layer)
    return validate(Recipe, merged, "recipe", "recipe key")


def data_section(registry: Registry, name: str | Path) -> dict[str, Any]:
    """The data section of a Run for the name of a data set, or for the path of a folder of images or of a table of them."""
    text = str(name)
    is_path = isinstance(name, Path) or any(mark in text for mark in "/\\~.") or (text and Path(text).is_dir())
    if not is_path or text in registry.data:
        return {"name": text}
    is_table = text.lower().endswith(TABLES) and not Path(text).is_dir()
    return {"name": "table", "path": text} if is_table else {"name": "folder", "root": text}


def _require_one_place(registry: Registry, settings: list[dict[str, Any]]) -> None:
    """Refuse a path in the place of a data set's name beside another for the same data."""
    given = [data for layer in settings if (data := layer.get("data"))]
    name = next((data["name"] for data in reversed(given) if data.get("name")), "")
    for key, place in data_section(registry, name).items():
        other = next((data[key] for data in reversed(given) if key in data), place)
        if key != "name" and other != place:
            raise UserError(f"data.{key}={other}: the data is {name}: omit one of the two")


def _with_folder(registry: Registry, layer: dict[str, Any]) -> dict[str, Any]:
    data = layer.get("data") or {}
    return {**layer, "data": {**data, **data_section(registry, data["name"])}} if data.get("name") else layer


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Set values; a dotted key, as in ``optimizer_args.momentum``, sets one item of a dictionary."""
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{key!r} is no key: keys are text, as in recipe.lr")
        outer, dot, inner = key.partition(".")
        items = into.get(outer)
        into[outer] = {**(items if isinstance(items, dict) else {}), inner: value} if dot else value


def _without_foreign_arguments(layers: list[dict[str, Any]], settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recipes without the arguments of an optimizer or loss in whose place a later one names another.

    A weight decay belongs to its optimizer: one that suits the decoupled decay of AdamW is a ruinous L2 penalty for SGD.
    """
    for kind, of_kind in (("optimizer", ("optimizer_args", "weight_decay")), ("loss", ("loss_args",))):
        named = [Recipe.model_fields[kind].default]
        for layer in (*layers, *settings):
            named.append(layer.get(kind, named[-1]))
        for place, layer in enumerate(layers):
            if named[place + 1] != named[-1]:
                layers[place] = {key: value for key, value in layer.items() if key.partition(".")[0] not in of_kind}
    return layers


def _with_arguments(registry: Registry, data: Entry, recipe: Recipe) -> Recipe:
    """The recipe with all arguments of its optimizer and its loss.

    Raises:
        UserError: an unknown name or argument, arguments of no loss, or a loss of another task.
    """
    optimizer = registry.find("optimizer", recipe.optimizer)
    arguments = {"optimizer_args": check_options(optimizer, recipe.optimizer_args, as_json=True)}
    fitting = sorted(name for name, each in registry.entries("loss").items() if each.task == data.task)
    choice = f": choose from {', '.join(fitting)}" if fitting else ""
    if recipe.loss_args and not recipe.loss:
        raise UserError(f"recipe.loss_args: name the loss, too, by recipe.loss{choice}")
    if recipe.loss:
        loss = registry.find("loss", recipe.loss)
        if loss.task != data.task:
            raise UserError(f"recipe.loss={recipe.loss}: is for {loss.task}, and {data.name} for {data.task}{choice}")
        arguments["loss_args"] = check_options(loss, recipe.loss_args, as_json=True)
    return recipe.model_copy(update=arguments)


def resolve_test(
    registry: Registry, run: Run, data: str | Path | None, settings: list[dict[str, dict[str, Any]]], probed: str = ""
) -> tuple[dict[str, Any], TrainerSettings]:
    """Merge and validate the data section and the trainer settings for testing a finished run, on its own data or other.

    Args:
        probed: the task of the data if it is to probe features of the run, which may be for another.

    Raises:
        UserError: as ``resolve`` does.
    """
    trainer: dict[str, Any] = {}
    named = data_section(registry, data) if data else {"name": run.data["name"]}
    options = run.options("data") if named["name"] == run.data["name"] else {}
    options |= {key: value for key, value in named.items() if key != "name"}
    for layer in settings:
        options = {**options, **(layer.get("data") or {})}
        trainer.update(layer.get("trainer") or {})
    entry = registry.data_set(named["name"])
    task = probed or registry.task_of(run.model["name"], run.data["name"])
    if entry.task != task:
        fitting = sorted(name for name, each in registry.data.items() if each.task == task)
        taker = "a probe" if probed else "the model"
        raise UserError(f"{entry.name} is for {entry.task}, {taker} for {task}: {', '.join(fitting)} fit")
    section = {"name": entry.name, **check_options(entry, options)}
    return section, validate(TrainerSettings, trainer, "trainer", "trainer key")
