"""The configuration of a training run (``Run``) and its hyper-parameters (``Recipe``), validated before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from zoo.config.freezing import Freezing
from zoo.config.options import check_options, validate
from zoo.config.values import Written, load_yaml
from zoo.core.errors import UserError, did_you_mean, unknown
from zoo.core.files import expanded, read_regular
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry

LIBRARIES = ("torchvision", "timm")  # whose networks are models of the zoo under one name each
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A group of settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(Section):
    """Hyper-parameters of training, apart from those of the model and the data."""

    epochs: int = Field(20, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="samples per batch and device: images, or streams of text")
    accumulate_grad_batches: int = Field(1, ge=1, description="batches whose gradients are averaged for one optimizer step")
    optimizer: str = Field("adamw", description="optimizer; zoo list --optimizers shows all")
    optimizer_args: dict[str, Any] = Field({}, description="its arguments, as in optimizer_args.betas=[0.9,0.95]")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of this optimizer; norms and biases are exempt")
    l1: float = Field(0.0, ge=0, description="L1 penalty in the loss: l1 times the sum of absolute weights")
    l2: float = Field(
        0.0, ge=0, description="L2 penalty in the loss: l2 / 2 times the sum of squared weights; elastic net with l1"
    )
    decay_norms_and_biases: bool = Field(False, description="apply weight decay and penalties to norms and biases too")
    schedule: Literal["constant", "multistep", "cosine", "one-cycle"] = Field("cosine", description="learning-rate schedule")
    milestones: tuple[Fraction, ...] = Field(
        (0.5, 0.75), description="multistep: when the learning rate drops, as fractions of training"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="multistep: factor by which the learning rate drops")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warmup; one-cycle has its own (30%)")
    lr_base_batch_size: int | None = Field(
        None, ge=1, description="global batch size for which lr is given; lr is scaled linearly"
    )
    gradient_clip_val: float | None = Field(None, gt=0, description="maximum gradient norm")
    loss: str | None = Field(None, description="training loss; None is the default of the task; zoo list --losses shows all")
    loss_args: dict[str, Any] = Field({}, description="its arguments, as in loss_args.margin=0.5")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread evenly over all classes")
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="keep and evaluate an exponential moving average of the weights"
    )
    early_stopping_patience: int | None = Field(None, ge=1, description="epochs without improvement after which training stops")
    precision: Literal["32", "bf16", "16", "64"] = Field("32", description="32, 64, or mixed precision with bf16 or 16")
    compile: bool = Field(False, description="compile the model with torch.compile")
    seed: int = Field(0, ge=0, description="random seed of initialization, splits, shuffling and augmentation")
    checkpoint_minutes: float = Field(10.0, gt=0, description="minutes between checkpoints within an epoch")
    weights: str = Field("", description="initial weights: pretrained, a run, or a file; empty is random initialization")
    weights_key: str = Field(
        "", description="key of the weights in a file that holds several, as in model_ema; empty prefers averages"
    )
    weights_by_order: bool = Field(False, description="match the tensors of a file by order and shape instead of by name")
    weights_mean: tuple[float, ...] = Field(
        (), description="per-channel mean of the images that the weights expect, for pixels in [0, 1]"
    )
    weights_std: tuple[float, ...] = Field((), description="per-channel standard deviation, likewise")
    keep_head: bool = Field(False, description="keep the pretrained head; the data must have as many classes")
    freeze: str = Field("none", description="frozen stages: none, backbone, until:STAGE, epochs:N or epochs:N+M")
    frozen_norms: Literal["keep", "update"] = Field(
        "keep", description="running statistics of batch norms in frozen stages: keep or update"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise learning-rate decay: factor from each stage to the one before it; the head has lr",
    )

    @field_validator("freeze")
    @classmethod
    def _is_a_plan(cls, freeze: str) -> str:
        return Freezing.parse(freeze).text

    @property
    def decays_past_zero(self) -> bool:
        """Whether the weight decay of a single step is larger than the weights themselves, and they alternate and grow."""
        return self.weight_decay > max(1.0, 1 / self.lr)

    @property
    def freezing(self) -> Freezing:
        """The parsed freezing plan."""
        return Freezing.parse(self.freeze)


# of Lightning's: processes that are spawned or forked do not give the trained network back, and Lightning has no sharded strategy
# for CPUs, where it could be tried
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")


class TrainerSettings(Section):
    """Settings of Lightning's Trainer."""

    devices: Annotated[int | list[int] | str, Field(union_mode="left_to_right")] = Field(
        1, description="number of devices, a list of indices, or auto"
    )
    num_nodes: int = Field(1, ge=1, description="number of machines")
    strategy: str = Field("auto", description="Lightning strategy: auto or ddp")
    accelerator: str = Field("auto", description="Lightning accelerator: auto, cpu, gpu, mps, ...")
    timeout_minutes: float = Field(10.0, gt=0, description="minutes that a process waits for the others before it gives up")
    sync_batchnorm: bool = Field(False, description="synchronize batch norm across devices")
    deterministic: bool = Field(False, description="deterministic kernels only; needed for exact resume on a GPU")
    limit_train_batches: int | float = Field(
        1.0, gt=0, description="training batches per epoch: number (int) or fraction (float)"
    )
    limit_val_batches: int | float = Field(1.0, gt=0, description="validation batches: number or fraction")
    limit_test_batches: int | float = Field(1.0, gt=0, description="test batches: number or fraction")
    logger: tuple[str, ...] = Field((), description="experiment trackers beside W&B; zoo list --loggers shows all")
    log_every_n_steps: int = Field(50, ge=1, description="steps between two records of the training loss")
    monitor_every_n_steps: int = Field(
        200, ge=0, description="steps between two records of activations and gradients; 0 turns monitors off"
    )

    @field_validator("strategy")
    @classmethod
    def _must_be_known(cls, strategy: str) -> str:
        if strategy not in STRATEGIES:
            raise unknown("strategy (trainer.strategy)", strategy, STRATEGIES)
        return strategy


class WandbSettings(Section):
    """Settings of Weights & Biases. Environment variables (WANDB_PROJECT, ...) are the defaults."""

    mode: Literal["off", "online", "offline"] = Field("off", description="off, online or offline; off does not import wandb")
    project: str | None = Field(None, description="default: WANDB_PROJECT or bestiary")
    entity: str | None = Field(None, description="user or team")
    group: str | None = Field(None, description="group of runs")
    job_type: str | None = Field(None, description="type of run, as in train or sweep")
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), max_length=100, description="labels to filter by, of at most 64 characters each"
    )
    artifacts: bool = Field(False, description="upload the best and the last checkpoint")
    inside: Literal["summary", "full", "off"] = Field(
        "summary", description="activations and gradients: totals and the worst layers, full (also wandb.layers), or off"
    )
    layers: tuple[str, ...] = Field(
        (), description="globs of layers and parameters whose statistics and histograms inside=full logs; default: all"
    )

    @field_validator("mode", "inside", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @field_validator("layers")
    @classmethod
    def _need_full(cls, layers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if layers and info.data.get("inside", "full") != "full":
            raise ValueError("need wandb.inside=full")
        return layers


class Run(Section):
    """The configuration of a training run: model, data, recipe, trainer and tracker.

    ``model`` and ``data`` hold ``name`` and the options; ``plugins`` are the plugin files of the command.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    recipe: Recipe
    trainer: TrainerSettings
    wandb: WandbSettings
    plugins: tuple[str, ...] = ()

    @field_validator("model", "data")
    @classmethod
    def _require_name(cls, section: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(section.get("name"), str) or not section["name"]:
            raise ValueError("must have a name")
        return section

    def options(self, section: Literal["model", "data"]) -> dict[str, Any]:
        """Options of the model or the data, without the name."""
        return {key: value for key, value in getattr(self, section).items() if key != "name"}

    @property
    def network(self) -> str:
        """The name of the network: the model's, or that of a library's network, as in torchvision's resnet50."""
        return str(self.model["network" if self.model["name"] in LIBRARIES else "name"])

    def to_yaml(self) -> str:
        """Dump to YAML, as ``run.yaml`` holds it and ``--config`` reads it."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


TABLES = (".csv", ".tsv", ".parquet")  # endings of paths that are tables of images
SECTIONS = ("model", "data", "recipe", "trainer", "wandb")


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
            if data_entry.task != entry.task
            else f"needs images, and {data_name} is points in the plane"
        )
        raise UserError(f"{entry.name} {wrong}: data that fits: {', '.join(fitting)}")
    if (config.get("data") or {}).get("name", data_name) != data_name:
        config = {**config, "data": {}}  # its options belong to another data set
    merged: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    own = entry.recipe if recipe is None else recipe
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
    data_options = check_options(data_entry, merged["data"])
    if "augment" in data_options:
        parse_augmentation(registry, data_options["augment"])
    trainer = validate(TrainerSettings, merged["trainer"], "trainer", "trainer key")
    for logger in trainer.logger:
        registry.find("logger", logger)
    return Run(
        model={"name": entry.name, **check_options(entry, merged["model"])},
        data={"name": data_name, **data_options},
        recipe=_with_arguments(registry, entry, validate(Recipe, merged["recipe"], "recipe", "recipe key")),
        trainer=trainer,
        wandb=validate(WandbSettings, merged["wandb"], "wandb", "wandb key"),
        plugins=(*registry.plugin_files, *(file for file in registry.live_files() if file not in registry.plugin_files)),
    )


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


def _with_arguments(registry: Registry, model: Entry, recipe: Recipe) -> Recipe:
    """The recipe with all arguments of its optimizer and its loss.

    Raises:
        UserError: an unknown name or argument, arguments of no loss, or a loss of another task.
    """
    optimizer = registry.find("optimizer", recipe.optimizer)
    arguments = {"optimizer_args": check_options(optimizer, recipe.optimizer_args, as_json=True)}
    if recipe.loss_args and not recipe.loss:
        raise UserError("recipe.loss_args: name the loss, too: recipe.loss=...")
    if recipe.loss:
        loss = registry.find("loss", recipe.loss)
        if loss.task != model.task:
            raise UserError(f"recipe.loss={recipe.loss}: is for {loss.task}, and {model.name} for {model.task}")
        arguments["loss_args"] = check_options(loss, recipe.loss_args, as_json=True)
    return recipe.model_copy(update=arguments)


def resolve_test(
    registry: Registry, run: Run, data: str | Path | None, settings: list[dict[str, dict[str, Any]]]
) -> tuple[dict[str, Any], TrainerSettings]:
    """Merge and validate the data section and the trainer settings for testing a finished run, on its own data or other.

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
    task = registry.model(run.model["name"]).task
    if entry.task != task:
        raise UserError(f"{entry.name} is for {entry.task}, the model for {task}: {', '.join(registry.data_for(task))} fit")
    section = {"name": entry.name, **check_options(entry, options)}
    return section, validate(TrainerSettings, trainer, "trainer", "trainer key")


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file with the sections of a Run.

    Raises:
        UserError: the file is missing or is not such a file.
    """
    try:
        tree = load_yaml(read_regular(expanded(path)).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"--config {path}: not a text file") from None
    except UserError as error:
        raise UserError(f"--config {error}") from None
    except ValueError as error:
        raise UserError(f"--config {path}: {error}") from None
    if not isinstance({} if tree is None else tree, dict):
        raise UserError(f"--config {path}: holds no sections ({', '.join(SECTIONS)})")
    return tree or {}


def parse_setting(text: str, sections: tuple[str, ...] = SECTIONS) -> dict[str, dict[str, Any]]:
    """Parse a setting such as ``recipe.lr=0.1`` into section -> key -> value, which is interpreted by the type of the key.

    Raises:
        UserError: not of that form, or an unknown section.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: write it as section.key=value, for example recipe.lr=0.1")
    section, name = _section_and_name(key.strip(), text, sections)
    return {section: {name: Written(value)}}


def parse_settings(
    settings: Mapping[str, object] | Sequence[str] | None, sections: tuple[str, ...] = SECTIONS
) -> list[dict[str, dict[str, Any]]]:
    """Parse settings, as ``{"recipe.lr": 0.1}`` or ``["recipe.lr=0.1"]``, into section -> key -> value each.

    Raises:
        UserError: as ``parse_setting``.
    """
    if not isinstance(settings, (Mapping, Sequence, NoneType)) or isinstance(settings, (str, bytes)):
        raise UserError(f"settings={settings!r}: give a dict, as in {{'recipe.lr': 0.1}}")
    if not isinstance(settings, Mapping):
        if strange := [text for text in settings or () if not isinstance(text, str)]:
            raise UserError(f"settings: {strange[0]!r}: write it as section.key=value, for example recipe.lr=0.1")
        return [parse_setting(text, sections) for text in settings or ()]
    parsed = []
    for key, value in settings.items():
        section, name = _section_and_name(str(key), str(key), sections)
        parsed.append({section: {name: value}})
    return parsed


def _section_and_name(key: str, text: str, sections: tuple[str, ...]) -> tuple[str, str]:
    section, dot, name = key.partition(".")
    if not (dot and name):
        raise UserError(f"--set {text}: write it as section.key=value, for example recipe.lr=0.1")
    if section in SECTIONS and section not in sections:
        raise UserError(f"--set {text}: {section} settings do not apply here, only {', '.join(sections)}")
    if section not in sections:
        raise unknown("section", section, sections)
    return section, name


def differences(old: Run, new: Run) -> list[str]:
    """List the settings in which two Runs differ, each as ``section.key=new value (was old value)``."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        f"{section}.{key}={after[section].get(key)} (was {before[section].get(key)})"
        for section in SECTIONS
        for key in {**before[section], **after[section]}
        if before[section].get(key) != after[section].get(key)
    ]
