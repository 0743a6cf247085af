"""Classes that join a network with a loop: what it is with how it is trained."""

from __future__ import annotations

import functools
from typing import Any

from zoo.core.errors import UserError


def joined(network: type, loop: type) -> type:
    """The class of a network with a loop, under the name of the network; the network itself if it derives from the loop.

    Raises:
        UserError: the network derives from another loop.
    """
    if issubclass(network, loop):
        return network
    if hasattr(network, "task"):
        raise UserError(f"{network.__name__} is for {network.task} alone, and this data for {loop.task}: choose another model")
    return _class_of_both(network, loop)


@functools.cache
def _class_of_both(network: type, loop: type) -> type:
    names = {name: getattr(network, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(network.__name__, (network, loop), {**names, "network_class": network})


def reduced(task: Any, protocol: Any) -> tuple[Any, ...]:
    """What pickle writes of a network with its loop: pickle finds a class by its name, which is that of the network alone."""
    _, (cls, *_), *state = object.__reduce_ex__(task, protocol)
    return _unpickled, (vars(cls).get("network_class", cls), task.task), *state


def _unpickled(network: Any, task: str) -> Any:
    """An object of the class of a network with a loop, whose state follows."""
    cls = network.with_loop(task)
    return cls.__new__(cls)
