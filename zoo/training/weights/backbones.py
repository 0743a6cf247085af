"""Pretrained backbones of torchvision and timm, listed from their source without importing either.

Both declare their weights as literals, so reading them takes a moment where an import takes many seconds.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from zoo.config.run import LIBRARIES
from zoo.core.errors import UserError, unknown
from zoo.registry.registry import Registry

HUB = "hf-hub"  # timm's name for repositories on the Hugging Face hub, as in timm:hf-hub:timm/resnet18.a1_in1k
PRETRAINED_TAG = "pretrained"  # of models of the zoo that come with weights
INSTALL_TIMM = "pip install 'bestiary[timm]'"
FIGURE = re.compile(r"'acc@1': ([\d.]+)")


@dataclass(frozen=True)
class Backbone:
    """One set of weights of one network.

    Attributes:
        name: argument of ``zoo finetune``, as in ``torchvision:resnet50.IMAGENET1K_V2``.
        size: image size in pixels; 0 where only the library knows it.
        accuracy: top-1 on ImageNet, in percent, of torchvision; 0 is unknown.
        source: URL of the file; empty where the library knows it.
        is_default: whether the network's name alone stands for these weights; timm has defaults of its own.
    """

    name: str
    size: int = 0
    accuracy: float = 0.0
    source: str = ""
    is_default: bool = False

    @property
    def library(self) -> str:
        return self.name.partition(":")[0]

    @property
    def network(self) -> str:
        """The library's name of the network, without the weights."""
        name = self.name.partition(":")[2]
        return name.partition(".")[0] if self.library == "torchvision" else name

    def row(self) -> tuple[str, str, str]:
        """As text: name, size and accuracy; empty where unknown."""
        return self.name, str(self.size or ""), f"{self.accuracy:.1f}" if self.accuracy else ""


def find_backbones(registry: Registry, pattern: str = "") -> list[Backbone]:
    """List the pretrained networks of the zoo, of torchvision and, if it is installed, of timm.

    Args:
        pattern: part of a name, or a glob; empty for all.
    """
    own = [Backbone(entry.name) for entry in registry.models.values() if PRETRAINED_TAG in entry.tags]
    every = (*own, *_torchvision(), *_timm())

    def matches(name: str) -> bool:
        return pattern in name or fnmatch(name, pattern) or fnmatch(name.partition(":")[2], pattern)

    return [each for each in every if not pattern or matches(each.name)]


def find_backbone(name: str) -> Backbone:
    """Find pretrained weights by name; without a version, as in ``torchvision:resnet50``, the library's default.

    Raises:
        UserError: no such weights, or the library is not installed.
    """
    library, _, rest = name.partition(":")
    if HUB in (library, rest.partition(":")[0]):
        return _on_hub(name.removeprefix("timm:"))
    if library not in LIBRARIES:
        raise UserError(f"{name}: name weights as in {LIBRARIES[0]}:resnet50")
    known = {backbone.name: backbone for backbone in (_torchvision() if library == "torchvision" else _timm())}
    if not known:
        raise UserError(f"{name} needs {library}, which is not installed: {INSTALL_TIMM}")
    if name in known:
        return known[name]
    network, _, version = rest.partition(".")
    versions = [backbone for backbone in known.values() if backbone.network.partition(".")[0] == network]
    if versions and version in ("", "DEFAULT"):
        # timm selects its default itself
        return next((each for each in versions if each.is_default), Backbone(f"timm:{network}"))
    if versions:
        raise unknown(f"weights of {library}'s {network}", version, [each.name.rpartition(".")[2] for each in versions])
    networks = {backbone.network.partition(".")[0] for backbone in known.values()}
    raise unknown(f"network of {library} with weights", network, networks, "`zoo list --pretrained` shows them all")


def is_published(registry: Registry, name: str) -> bool:
    """Whether a name is that of a network with published weights, judging by its form."""
    is_own = name in registry.models and PRETRAINED_TAG in registry.models[name].tags
    return is_own or (name.partition(":")[0] in (*LIBRARIES, HUB) and ":" in name)


def _on_hub(name: str) -> Backbone:
    """A repository on the Hugging Face hub, as in ``hf-hub:timm/resnet18.a1_in1k``."""
    if not re.fullmatch(rf"{HUB}:[\w.-]+/[\w.-]+(@[\w.-]+)?", name):
        raise UserError(f"{name}: name a repository as in {HUB}:timm/resnet18.a1_in1k")
    if not _source_files("timm"):
        raise UserError(f"{name} needs timm, which is not installed: {INSTALL_TIMM}")
    return Backbone(f"timm:{name}")


def _source_files(library: str) -> list[Path]:
    spec = importlib.util.find_spec(library)
    return sorted((Path(spec.origin).parent / "models").glob("*.py")) if spec and spec.origin else []


def _torchvision() -> Iterator[Backbone]:
    """From the classes that list weights, and the annotations of the builder functions that use them."""
    for path in _source_files("torchvision"):
        source = path.read_text(encoding="utf-8")
        if "WeightsEnum" not in source:
            continue
        tree = ast.parse(source)
        listed = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and _is_list(node)}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and (weights := listed.get(_weights_class(node))):
                yield from _of_list(node.name, weights)


def _is_list(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "WeightsEnum" for base in node.bases)


def _weights_class(node: ast.FunctionDef) -> str:
    """``ResNet50_Weights`` of ``weights: Optional[ResNet50_Weights] = None``."""
    for argument in node.args.kwonlyargs:
        if argument.arg == "weights" and argument.annotation is not None and not node.name.startswith("_"):
            return ast.unparse(argument.annotation).removeprefix("Optional[").removesuffix("]")
    return ""


def _of_list(network: str, weights: ast.ClassDef) -> Iterator[Backbone]:
    values = {node.targets[0].id: node.value for node in weights.body if isinstance(node, ast.Assign)}
    for name, value in values.items():
        if isinstance(value, ast.Call):
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            # as text, because they refer to names that only running the file would resolve
            meta, transforms = (ast.unparse(given[key]) for key in ("meta", "transforms"))
            size, figure = re.search(r"crop_size=(\d+)", transforms), FIGURE.search(meta)
            if figure:  # weights without it are for feature extraction, with no accuracy of their own
                source, is_default = ast.literal_eval(given["url"]), name == values["DEFAULT"].id
                yield Backbone(f"torchvision:{network}.{name}", int(size[1]), float(figure[1]), source, is_default)


# 'resnet50.a1_in1k': _cfg(   where a star marks what the network's name alone stands for
DECLARED = re.compile(r"""^\s*['"](\w+\.\w+)\*?['"]\s*:\s*\w*[({]""", re.MULTILINE)
WEIGHTS_GIVEN = re.compile(r"""\b(hf_hub_id|url)['"]?\s*[=:]\s*(['"]\S+['"]|\w)""")
BRACKET = re.compile(r"[(){}]")


def _timm() -> Iterator[Backbone]:
    for path in _source_files("timm"):
        source = path.read_text(encoding="utf-8")
        for mark in DECLARED.finditer(source):
            if not mark[1].endswith(".untrained") and WEIGHTS_GIVEN.search(source, mark.end(), _closing(source, mark.end())):
                yield Backbone(f"timm:{mark[1]}")


def _closing(source: str, start: int) -> int:
    """Position of the bracket that closes the one opened before ``start``."""
    depth = 1
    for mark in BRACKET.finditer(source, start):
        depth += 1 if mark[0] in "({" else -1
        if not depth:
            return mark.start()
    return len(source)
