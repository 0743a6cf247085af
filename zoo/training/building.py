"""From a Run, or from a checkpoint, to its data and its network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from zoo.config.options import check_options
from zoo.config.run import Run
from zoo.core.allocator import keep_freed_memory
from zoo.core.errors import UserError, one_line, unknown
from zoo.core.files import expanded
from zoo.core.memory import available_memory, require_memory
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.registry.registry import Registry
from zoo.spec import Spec, spec_from_primitives
from zoo.tasks.task import Task
from zoo.training.checkpoints import KEY, Damaged, require_finite, way_out
from zoo.training.data_record import SPLITS, DataRecord, exclude_trained
from zoo.training.exported import read_trained
from zoo.training.sources import find_trained
from zoo.training.weights.published import PublishedNetwork

MOST_TENSORS = 20_000  # of weights; a deeper network is surely a mistake


def open_data(registry: Registry, run: Run) -> Any:
    """The data of a Run with nothing fetched or read: its spec lacks the statistics.

    Raises:
        UserError: what the data set says is wrong with its options.
    """
    entry = registry.data_set(run.data["name"])
    return entry.load()(run.recipe.batch_size, run.recipe.seed, **run.options("data"))


def build_data(registry: Registry, run: Run, record: DataRecord | None = None, spec: Spec | None = None) -> Any:
    """The data of a Run, brought to this machine, read and split; its spec is complete.

    Args:
        record: of the files that the Run was begun with, to leave out others.
        spec: that it was begun with, whose preprocessing is used.

    Raises:
        UserError: what the data set says is wrong with its files or options.
    """
    data = open_data(registry, run)
    if record and record.files:
        data.keep_only(record.files)
    if spec:
        data.use_preprocessing(spec)
    data.prepare_data()
    data.setup()
    return data


def build_test_data(
    registry: Registry, run: Run, spec: Spec, section: dict[str, Any] | None = None, record: DataRecord | None = None
) -> Any:
    """The data of a Run, or other data, for testing a network that was trained on data of ``spec``.

    Args:
        section: the other data: ``name`` and options. Without a test split of its own, all of it is for testing.
        record: of what the network was trained on, which is left out of the test split.

    Raises:
        UserError: the network does not know such data, or what ``build_data`` raises.
    """
    section = section or run.data
    data = open_data(registry, run.model_copy(update={"data": section}))
    is_own = _place(section) == _place(run.data)
    if not is_own:
        data.test_on_everything()
    data.use_preprocessing(spec)
    data.prepare_data()
    data.setup()
    data.require_compatible(spec, section["name"])
    if record and record.files:
        now = DataRecord.of(data)
        if is_own and (changes := record.changes(now, SPLITS)):
            rank_zero_print(f"warning: {data.content} of {section['name']} since the training: {changes}")
        exclude_trained(data, record.trained_on)
    return data


def _place(section: dict[str, Any]) -> list[Any]:
    """Which data it is: its name, its folder or file, and the configuration on a hub."""
    places = [section.get(key) for key in ("root", "path")]
    return [section["name"], section.get("config"), *(expanded(place).resolve() if place else None for place in places)]


def build_task(registry: Registry, run: Run, spec: Spec) -> Task:
    """The model of a Run for data of that spec, with initial weights that follow from the seed alone.

    Raises:
        UserError: an option has a value that the network cannot take, the data does not fit, or the metric that is to select
            the best checkpoint is not measured.
    """
    keep_freed_memory()
    model = registry.model(run.model["name"])
    build = partial(model.load(), spec, run.recipe, **run.options("model"))
    asked = _settings_of_size(registry, run)
    if asked:
        _require_memory_for(build, asked)
    torch.manual_seed(derive_seed(run.recipe.seed, "init"))
    try:
        task = build()
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if not asked:
            raise
        raise UserError(f"{asked}: {model.name} cannot be built: {one_line(error, 200)}") from error
    if task.monitor not in task.directions:
        raise unknown("validation metric", task.monitor, task.directions)
    if task.channels_last:
        task.to(memory_format=torch.channels_last)
    return task


def _settings_of_size(registry: Registry, run: Run) -> str:
    """The options of the model, and the numbers among those of the data, that are not the defaults; empty if all are."""
    asked = []
    for section, entry in (("model", registry.model(run.model["name"])), ("data", registry.data_set(run.data["name"]))):
        for key, value in run.options(section).items():
            if entry.defaults.get(key) != value and (section == "model" or isinstance(value, (int, float))):
                asked.append(f"{section}.{key}={value}")
    return one_line(", ".join(asked), 200)


class _TooLarge(Exception):
    """The weights that were counted are too many."""


def _require_memory_for(build: Callable[[], Task], asked: str) -> None:
    """Build a network on the meta device, where tensors take no memory, and refuse one whose weights do not fit.

    Args:
        asked: the settings that ask for it.

    Raises:
        UserError: the weights take more memory than is available, or are more than ``MOST_TENSORS``.
    """
    available = available_memory()
    sizes: list[int] = []

    def weigh(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        sizes.append(parameter.nbytes)
        if len(sizes) > MOST_TENSORS or (available is not None and parameter.nbytes > available):
            raise _TooLarge

    hook = register_module_parameter_registration_hook(weigh)
    try:
        with torch.device("meta"):
            build()
    except _TooLarge:
        pass
    except Exception:  # whatever does not work there, or is refused: the network itself will tell
        return
    finally:
        hook.remove()
    if len(sizes) > MOST_TENSORS:
        raise UserError(f"{asked}: the network would have more than {MOST_TENSORS:,} tensors of weights")
    require_memory(asked, sum(sizes), "the weights")


def load_task(registry: Registry, checkpoint: dict[str, Any], path: Path, must_be_finite: bool = True) -> tuple[Task, Run]:
    """The model that a checkpoint describes, with its weights, ready to evaluate.

    Args:
        must_be_finite: refuse weights that are not finite.

    Raises:
        UserError: the model is not in the zoo (a plugin is missing), or the weights do not fit it.
    """
    run, spec = described(registry, checkpoint, path)
    try:
        task = build_task(registry, run, spec)
    except (UserError, ValueError, TypeError, RuntimeError, MemoryError) as error:  # what the options and the spec lead it to
        raise UserError(f"{path} describes no network that can be built: {one_line(error, 150)}") from None
    load_weights(task, checkpoint["state_dict"], path, run.model["name"])
    if must_be_finite:
        require_finite(task, path)
    return task.eval(), run


def described(registry: Registry, checkpoint: dict[str, Any], path: Path) -> tuple[Run, Spec]:
    """The Run and the spec in a checkpoint.

    Raises:
        UserError: the model is not in the zoo, or a value is none that the zoo writes.
    """
    try:
        run = Run(**checkpoint[KEY]["run"])
        entry = registry.model(run.model["name"])
        check_options(entry, run.options("model"))
        entry.load()  # whose task may bring a spec of its own
        return run, spec_from_primitives(checkpoint[KEY]["spec"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{path} is damaged: {one_line(error, 150)}{way_out(path)}") from None


def load_weights(task: Task, state_dict: dict[str, Any], path: Path, network: str) -> None:
    """Load the weights of a checkpoint.

    Raises:
        UserError: they do not fit.
    """
    own = task.state_dict()
    for name, value in state_dict.items():  # torch would drop the imaginary part
        if name in own and isinstance(value, torch.Tensor) and value.is_complex() and not own[name].is_complex():
            raise Damaged(f"{path} is damaged: state_dict.{name} is complex{way_out(path)}")
    weights = OrderedDict(state_dict)
    weights._metadata = own._metadata  # versions of layers, which an exported file does not carry
    try:
        task.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = one_line(error).partition(": ")[2][:150]
        raise Damaged(f"{path} does not fit {network}: {reason}{way_out(path)}") from None


def open_trained(registry: Registry, name: str) -> Task:
    """The trained model of that name, ready to evaluate: of a run, an exported file, the zoo or W&B, or a published network.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    source = find_trained(name)
    if isinstance(source, PublishedNetwork):
        return source.open()
    best = source.checkpoint("best")
    return load_task(registry, read_trained(best), best)[0]
