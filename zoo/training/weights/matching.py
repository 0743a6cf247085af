"""The place of each tensor of a weight file in a network: by name, after a library's own conversion, or by order and shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.tasks.images import ImageModel
from zoo.tasks.library import MODULE
from zoo.tasks.weights import Weights

LIBRARY_PREFIX = f"{MODULE}."  # of the names of a library's network inside a model of the zoo
HEADS = re.compile(r"(\w*head|fc|classifier)s?\.")  # modules besides a backbone
COUNTER = "num_batches_tracked"
LEVELS = 4  # of modules around a network that a file may name
NAMED = 4  # mismatched weights in a message


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


def _own_prefix(task: ImageModel) -> str:
    return LIBRARY_PREFIX if all(name.startswith(LIBRARY_PREFIX) for name in task.state_dict()) else ""


def match_weights(task: ImageModel, weights: Weights) -> Match:
    """Find the place of each tensor, by name, or by order if the recipe of the task says so.

    Raises:
        UserError: they do not match by order.
    """
    return _match_by_order(task, weights) if task.recipe.weights_by_order else _match_by_name(task, weights)


def _match_by_name(task: ImageModel, weights: Weights) -> Match:
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


def _needs_conversion(task: ImageModel, values: dict[str, Tensor], bare: dict[str, str]) -> bool:
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


def _match_by_order(task: ImageModel, weights: Weights) -> Match:
    """Match by order.

    Raises:
        UserError: a shape differs, or the number of tensors.
    """
    names = match_in_order(task, weights)
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


def match_in_order(task: ImageModel, weights: Weights) -> dict[str, str] | None:
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


def differences(match: Match, needed: set[str], task: ImageModel, weights: Weights) -> list[str]:
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
