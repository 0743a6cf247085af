"""How a library builds a network of its own that is a model of the zoo, so that its weights can go back there."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

MODULE = "network"  # of the task: names of its weights begin with it, and those in the library do not
CALLS = {"torchvision": "torchvision.models.get_model", "timm": "timm.create_model"}


@dataclass(frozen=True)
class LibraryModel:
    """The call of a library that builds the module ``network`` of a classifier.

    Attributes:
        library: torchvision or timm.
        name: of the network there.
        arguments: literals, beside the number of classes.
    """

    library: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def call(self, num_classes: int, **more: Any) -> str:
        """The call as a Python expression."""
        keywords = {"num_classes": num_classes, **self.arguments, **more}
        given = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        return f"{CALLS[self.library]}({self.name!r}, {given})"

    def build(self, num_classes: int) -> nn.Module:
        """Call the library."""
        library, _, function = CALLS[self.library].rpartition(".")
        return getattr(importlib.import_module(library), function)(self.name, num_classes=num_classes, **self.arguments)

    def load(self, num_classes: int, file: Path) -> nn.Module:
        """Build the network in evaluation mode with the weights of a safetensors file, as ``loading`` says."""
        network = self.build(num_classes)
        state = OrderedDict(load_file(file))
        state._metadata = network.state_dict()._metadata  # versions of layers, which such a file does not hold
        network.load_state_dict(state)
        return network.eval()

    def loading(self, num_classes: int, file: str) -> str:
        """A line of Python that builds ``network`` and loads its weights from a safetensors file with ``strict=True``."""
        imports = "import timm" if self.library == "timm" else f"import {self.library}, safetensors.torch"
        return "; ".join([imports, *self.statements(num_classes, file)])

    def statements(self, num_classes: int, file: str) -> list[str]:
        """The statements of ``loading`` after its imports."""
        if self.library == "timm":
            return [f"network = {self.call(num_classes, checkpoint_path=file)}"]
        build, weights = f"network = {self.call(num_classes)}", f"safetensors.torch.load_file({file!r})"
        if self.name.startswith("mnasnet"):  # its layers ask for their version, which such a file does not hold
            return [build, "state = network.state_dict()", f"state.update({weights})", "network.load_state_dict(state)"]
        return [build, f"network.load_state_dict({weights})"]


def library_model(task: nn.Module) -> LibraryModel | None:
    """How a library builds the network of a task, if it holds all weights."""
    is_whole = all(name.startswith(f"{MODULE}.") for name in task.state_dict())
    return getattr(task, "library_model", None) if is_whole else None


def library_prefix(task: nn.Module) -> str:
    """What the names of all weights begin with in the zoo, and not in the library; empty for networks of the zoo."""
    return f"{MODULE}." if library_model(task) else ""
