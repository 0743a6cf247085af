"""Pretrained weights: found by name or file, and loaded completely or not at all."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.recipe import LIBRARIES, Run
from zoo.core.download import fetch
from zoo.core.errors import UserError, one_line, some
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier, Weights
from zoo.tasks.library import MODULE
from zoo.tasks.library_images import timm_spec, torchvision_spec
from zoo.tasks.task import Task
from zoo.training.backbones import HUB, find_backbone
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import RunFolder
from zoo.training.weight_files import read_weights, weights_of_zoo

PRETRAINED = "pretrained"  # the weights that come with a model
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm names them, the safer first
LIBRARY_PREFIX = f"{MODULE}."  # of the names of a library's network inside a model of the zoo
DIGITS = re.compile(r"-([0-9a-f]{8,64})\.")  # of a SHA-256, in the name of a file
HEADS = re.compile(r"(\w*head|fc|classifier)s?\.")  # modules besides a backbone
COUNTER = "num_batches_tracked"
LEVELS = 4  # of modules around a network that a file may name
NAMED = 4  # mismatched weights in a message
OMIT = "omit --keep-head (recipe.keep_head)"


@dataclass(frozen=True)
class LoadReport:
    """Summary of loaded weights, and of those that were skipped; the names are those in the file.

    Attributes:
        head: ``kept``, ``replaced``, or ``new`` where the file has none.
        left_out: of parts that are only for training, or of other networks.
    """

    origin: str
    tensors: int
    values: int
    head: str
    left_out: tuple[str, ...] = ()
    by_order: bool = False

    def __str__(self) -> str:
        left = f"; skipped: {some(self.left_out, NAMED)}" if self.left_out else ""
        head = {"kept": "its head was kept", "replaced": "its head was replaced", "new": "the head is new"}[self.head]
        order = ", matched by order and shape" if self.by_order else ""
        return f"{self.values:,} weights in {self.tensors} tensors from {self.origin}{order}; {head}{left}"


# ---------------------------------------------------------------------------------------------- where they come from


def open_weights(registry: Registry, run: Run) -> Weights:
    """Read the pretrained weights of a Run.

    Raises:
        UserError: there are none of that name, they cannot be read, or they contain code.
    """
    source = run.recipe.weights
    if source.partition(":")[0] in (*LIBRARIES, HUB):
        return _of_library(source)
    if source == PRETRAINED:
        return Weights(f"{run.model['name']} as pretrained", {})
    path = Path(source).expanduser()
    if path.is_file():
        return read_weights(path, run.recipe.weights_key)
    return weights_of_zoo(read_checkpoint(RunFolder.find(source).checkpoint("best")), f"the run {source}")


def match_image_size(registry: Registry, run: Run) -> Run:
    """Set the image size of a Run to that of its pretrained weights, if it is known.

    Raises:
        UserError: as ``open_weights`` does.
    """
    source = run.recipe.weights
    is_library = source.partition(":")[0] in (*LIBRARIES, HUB)
    spec = library_spec(source) if is_library else open_weights(registry, run).spec
    size = spec.height if spec else registry.model(run.model["name"]).load().size_of_files
    return run.model_copy(update={"data": {**run.data, "size": size}}) if size else run


def library_spec(name: str) -> ImageSpec:
    """The images and classes of a library's weights, by the name of a backbone, without reading the weights.

    Raises:
        UserError: no such backbone, or its configuration is on the hub and cannot be reached.
    """
    backbone = find_backbone(name)
    if backbone.library == "torchvision":
        return torchvision_spec(_torchvision_weights(backbone.name))
    return timm_spec(_timm_config(backbone.network))


def _of_library(name: str) -> Weights:
    backbone = find_backbone(name)
    if backbone.library == "torchvision":
        listed = _torchvision_weights(backbone.name)
        return replace(read_weights(_file_of_publisher(name, listed.url)), origin=name, spec=torchvision_spec(listed))
    config = _timm_config(backbone.network)
    file = _file_of_hub(name, config) if config.hf_hub_id else _file_of_publisher(name, config.url)
    return replace(read_weights(file), origin=backbone.name, spec=timm_spec(config))


def _torchvision_weights(name: str) -> Any:
    from torchvision.models import get_model_weights

    network, _, version = name.partition(":")[2].partition(".")
    return get_model_weights(network)[version]


def _timm_config(network: str) -> Any:
    import timm
    from timm.models import PretrainedCfg

    if not network.startswith(f"{HUB}:"):
        return timm.get_pretrained_cfg(network)
    return PretrainedCfg(**_config_of_hub(network)[0])


def hub_network(name: str) -> tuple[str, dict[str, Any]]:
    """timm's name of the network of a repository on the Hugging Face hub, and its arguments.

    Raises:
        UserError: the repository cannot be reached, or is not one of timm.
    """
    _, architecture, arguments = _config_of_hub(name.removeprefix("timm:"))
    return architecture, {key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans", "img_size")}


def _config_of_hub(name: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """timm's configuration, name and arguments of the network of a repository."""
    from timm.models import load_model_config_from_hf

    repository, _, revision = name.removeprefix(f"{HUB}:").partition("@")

    def load() -> Any:
        _download(repository, ("config.json",), revision)
        return load_model_config_from_hf(name.removeprefix(f"{HUB}:"))

    return _reached(name, load)


def _file_of_publisher(name: str, url: str) -> Path:
    """Download a file to torch's cache in ``TORCH_HOME``, or find it there; the first digits of its SHA-256 are in its name."""
    file = url.rpartition("/")[2]
    if not (digits := DIGITS.search(file)):
        raise UserError(f"{name}: its publisher gives no hash to verify: fetch {url} and name it with --weights FILE")
    return fetch(file, f"{url}#sha256={digits[1]}", folder=Path(torch.hub.get_dir(), "checkpoints"))


def _file_of_hub(name: str, config: Any) -> Path:
    """Download from the hub, or find in its cache in ``HF_HOME``, verified by the SHA-256 under which large files are stored."""
    repository, _, revision = config.hf_hub_id.partition("@")
    path = _reached(name, _download, repository, (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES, revision)
    if re.fullmatch("[0-9a-f]{64}", digest := path.resolve().name):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise UserError(f"{path} is damaged: its SHA-256 is not {digest[:12]}...: remove it")
    return path


def _download(repository: str, files: Sequence[str], revision: str) -> Path:
    """The first of some files that the hub or its cache has.

    A server is asked once before a download, which would ask six times for each file where none can be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    version = revision or None
    cached = [file for file in files if isinstance(try_to_load_from_cache(repository, file, revision=version), str)]

    def fetch(file: str) -> Path:
        if not cached:
            get_hf_file_metadata(hf_hub_url(repository, file, revision=version))
        return Path(hf_hub_download(repository, file, revision=version))

    *others, last = cached[:1] or files
    for file in others:
        with suppress(EntryNotFoundError):
            return fetch(file)
    return fetch(last)


def _reached(name: str, load: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that needs the hub or its cache.

    Raises:
        UserError: it fails.
    """
    try:
        return load(*arguments)
    except Exception as error:  # whatever the network and the hub raise
        reason = one_line(error, 120).partition(". ")[0]
        raise UserError(
            f"{name} could not be fetched ({type(error).__name__}: {reason}): set HF_HOME to a cache that has it, "
            "or name a file of weights with --weights FILE"
        ) from None


# ---------------------------------------------------------------------------------------------- into the network


def load_backbone(task: Task, weights: Weights, advice: str = OMIT) -> LoadReport:
    """Load pretrained weights into a network, and set the normalization that they expect.

    Names may differ by a prefix. A new linear head is initialized to zero: no class is preferred, and the first gradients leave
    the backbone unchanged (as Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3, start theirs). The recipe of the task says
    whether tensors are matched by order and whether the head is kept.

    Args:
        advice: what to do about a head that cannot be kept.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; nothing was loaded.
    """
    if not isinstance(task, Classifier):
        raise UserError(f"recipe.weights={weights.origin}: only image classifiers load pretrained weights")
    if not weights.state:  # pretrained
        weights = task.pretrained_weights()
    recipe, head = task.recipe, task.head_names()
    match = match_weights(task, weights)
    kept = {name for name in task.state_dict() if recipe.keep_head or name not in head}
    if recipe.keep_head and not _differences(match, kept - head, task, weights):  # at most the head differs
        _require_head(match, task, weights, advice)
    _require_fit(match, kept, task, weights)
    own = task.state_dict()  # with its metadata: the versions of the layers
    own.update({name: match.values[name] for name in kept if name in match.values})
    task.load_state_dict(own)
    if not recipe.keep_head:
        _start_head(task)
    if recipe.weights_mean or recipe.weights_std:
        task.set_normalization(recipe.weights_mean or (0.0,), recipe.weights_std or (1.0,))
    elif statistics := (weights.spec.mean, weights.spec.std) if weights.spec else task.statistics_of_files:
        task.set_normalization(*statistics)
    loaded = [match.values[name] for name in kept if name in match.values]
    values = sum(value.numel() for value in loaded if value.is_floating_point())
    state_of_head = "kept" if recipe.keep_head else "replaced" if head & set(match.values) else "new"
    return LoadReport(
        f"{weights.origin}{weights.note}", len(loaded), values, state_of_head, tuple(match.left_out), recipe.weights_by_order
    )


def _start_head(task: Classifier) -> None:
    *_, head = task.stages().values()
    if isinstance(head, nn.Linear):
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


@dataclass
class Match:
    """The tensors of a file by the names of a network.

    Attributes:
        values: own name -> tensor.
        names: own name -> name in the file.
        prefix: of the names in the file.
        unexpected: names in the file without a place in the network.
        left_out: those that belong to something else.
    """

    values: dict[str, Tensor]
    names: dict[str, str]
    prefix: str
    unexpected: list[str]
    left_out: list[str]


def _own_prefix(task: Classifier) -> str:
    return LIBRARY_PREFIX if all(name.startswith(LIBRARY_PREFIX) for name in task.state_dict()) else ""


def match_weights(task: Classifier, weights: Weights) -> Match:
    """Find the place of each tensor, by name, or by order if the recipe of the task says so.

    Raises:
        UserError: they do not match by order.
    """
    return _match_by_order(task, weights) if task.recipe.weights_by_order else _match_by_name(task, weights)


def _match_by_name(task: Classifier, weights: Weights) -> Match:
    """Match by name, after the library's own conversion if there is one."""
    own, state = _own_prefix(task), weights.state
    bare = {name.removeprefix(own): name for name in task.state_dict()}
    prefix = _prefix_in_file(state, bare)
    inside = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    values = {name: state[of_file] for name, of_file in inside.items()}
    if _needs_conversion(task, values, bare) and (converted := task.converted_weights(values)):
        values, inside = converted, {name: inside.get(name, name) for name in converted}
    left_out = [of_file for name, of_file in inside.items() if name.startswith(task.left_out)]
    left_out += [name for name in state if not name.startswith(prefix)]
    head = {name.removeprefix(own) for name in task.head_names()}
    # a head next to the backbone, as in backbone.conv1.weight and head.fc.weight
    for name in head - set(inside):
        beside = [each for each in left_out if each.rpartition(".")[2] == name.rpartition(".")[2] and HEADS.match(each)]
        if len(beside) == 1:
            inside[name], values[name] = beside[0], state[beside[0]]
    names = {bare[name]: of_file for name, of_file in inside.items() if name in bare}
    unexpected = [of_file for name, of_file in inside.items() if name not in bare and of_file not in left_out]
    return Match({bare[name]: value for name, value in values.items() if name in bare}, names, prefix, unexpected, left_out)


def _needs_conversion(task: Classifier, values: dict[str, Tensor], bare: dict[str, str]) -> bool:
    """Whether the file has a name that the network has not, or a tensor of another shape, apart from a head that is replaced."""
    own, replaced = task.state_dict(), set() if task.recipe.keep_head else task.head_names()
    return any(
        name not in bare or (bare[name] not in replaced and value.shape != own[bare[name]].shape)
        for name, value in values.items()
    )


def _prefix_in_file(found: Iterable[str], bare: Iterable[str]) -> str:
    """What the names in a file begin with where the network's begin: that with which most of them agree, or nothing."""
    known, counts = set(bare), Counter[str]()
    for name in found:
        parts = name.split(".")
        for level in range(min(LEVELS + 1, len(parts))):
            if ".".join(parts[level:]) in known:
                counts["".join(f"{part}." for part in parts[:level])] += 1
    return counts.most_common(1)[0][0] if counts else ""  # of equals, the one that the file has first


def _match_by_order(task: Classifier, weights: Weights) -> Match:
    """Match by order.

    Raises:
        UserError: a shape differs, or the number of tensors.
    """
    names = _in_order(task, weights)
    if names is None:
        own = [value for name, value in task.state_dict().items() if not name.endswith(COUNTER)]
        tensors = [value for name, value in weights.state.items() if not name.endswith(COUNTER)]
        place = next((i for i, (a, b) in enumerate(zip(own, tensors, strict=False)) if a.shape != b.shape), None)
        which = "" if place is None else f"; the first of another shape is number {place + 1}"
        raise UserError(
            f"{weights.origin} does not match this network in order and shape: it has {len(tensors)} tensors, the network "
            f"{len(own)}{which}: omit recipe.weights_by_order"
        )
    return Match({name: weights.state[of_file] for name, of_file in names.items()}, names, "", [], [])


def _in_order(task: Classifier, weights: Weights) -> dict[str, str] | None:
    """Own names -> names in the file, if the tensors agree in order and shape; the head may have another number of classes."""
    own, head, found = task.state_dict(), task.head_names(), weights.state
    if len(found) != len(own):  # old files lack the counters of batch norms
        own = {name: value for name, value in own.items() if not name.endswith(COUNTER)}
        found = {name: value for name, value in found.items() if not name.endswith(COUNTER)}
    if len(found) != len(own):
        return None
    pairs = dict(zip(own, found, strict=True))
    for name, of_file in pairs.items():
        ours, theirs = own[name].shape, found[of_file].shape
        if ours[1:] != theirs[1:] or (ours != theirs and name not in head):
            return None
    return pairs


def _require_head(match: Match, task: Classifier, weights: Weights, advice: str) -> None:
    """Refuse to keep a head for other classes.

    Raises:
        UserError: it is missing, or the classes differ in number or name.
    """
    head, own = task.head_names(), task.state_dict()
    if head - set(match.values):
        raise UserError(f"{weights.origin} has no head: {advice}")
    for name in head:
        theirs, ours = len(match.values[name]), len(own[name])
        if theirs != ours:
            raise UserError(f"{weights.origin} has a head for {theirs:,} classes, and the data has {ours:,}: {advice}")
    if weights.spec and weights.spec.classes != task.spec.classes:
        theirs, ours = some(weights.spec.classes), some(task.spec.classes)
        raise UserError(f"{weights.origin} has a head for the classes {theirs}, and the data has {ours}: {advice}")


def _require_fit(match: Match, needed: set[str], task: Classifier, weights: Weights) -> None:
    """Refuse weights of another network, and those that are not finite.

    Raises:
        UserError: they differ, or a value is not finite; nothing was loaded.
    """
    if differences := _differences(match, needed, task, weights):
        if not task.recipe.weights_by_order and _in_order(task, weights):
            raise UserError(
                f"{weights.origin} has other names than this network, but its {len(weights.state)} tensors match in order and "
                "shape: load them so with --set recipe.weights_by_order=true"
            )
        raise UserError(f"{weights.origin} does not fit this network, nothing was loaded: {'; '.join(differences)}")
    kept = {name: value for name, value in match.values.items() if name in needed}
    if broken := [match.names[n] for n, value in kept.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{weights.origin} contains non-finite values, nothing was loaded: {some(broken, NAMED)}")


def _differences(match: Match, needed: set[str], task: Classifier, weights: Weights) -> list[str]:
    """Every kind of difference in names and shapes, counted, with the first of each, by their names in the file."""
    own, prefix = task.state_dict(), _own_prefix(task)
    # old files lack the counters that batch norms have had since torch 0.4.1
    counters = {name for name in own if name.endswith(COUNTER)}
    missing = {f"{match.prefix}{name.removeprefix(prefix)}" for name in needed - set(match.values) - counters}
    objects = sorted(missing & set(weights.objects))
    shapes = [
        f"{match.names[name]} {_shape(match.values[name])} instead of {_shape(own[name])}"
        for name in own
        if name in needed and name in match.values and match.values[name].shape != own[name].shape
    ]
    parts = {
        "not a tensor": [f"{name}, a {weights.objects[name]}" for name in objects],
        "missing": sorted(missing - set(objects)),
        "unexpected": sorted(match.unexpected),
        "of another shape": shapes,
    }
    return [f"{len(names)} {what}: {some(names, NAMED)}" for what, names in parts.items() if names]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"
