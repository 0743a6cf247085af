"""Check of this machine: versions, devices, folders, plugins."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from zoo.core.files import cache_folder
from zoo.registry.registry import Registry
from zoo.training.run_folder import runs_folder

PACKAGES = ("bestiary", "torch", "torchvision", "lightning", "torchmetrics", "wandb", "typer", "pydantic")
LEAST_FREE_GB = 2


@dataclass(frozen=True)
class Finding:
    """One fact, and whether it is as it should be."""

    name: str
    text: str
    good: bool = True


def check_machine(registry: Registry) -> list[Finding]:
    """List all findings: packages, devices, folders, and plugins."""
    findings = [Finding("python", f"{platform.python_version()} on {platform.platform()}")]
    findings += [_package(name) for name in PACKAGES]
    findings += _devices()
    findings += [_folder("runs", runs_folder()), _folder("cache", cache_folder())]
    everything = [*registry.models.values(), *registry.data.values()]
    plugins = sorted({entry.origin for entry in everything if not entry.origin.startswith("bestiary ")})
    findings.append(Finding("registry", f"{len(registry.models)} models, {len(registry.data)} data sets"))
    findings.append(Finding("plugins", ", ".join(plugins) or "none"))
    findings += [Finding("plugin", warning, good=False) for warning in registry.warnings]
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "is not installed", good=False)


def _devices() -> list[Finding]:
    if find_spec("torch") is None:
        return []
    import torch

    findings = [Finding("cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        findings.append(Finding(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        findings.append(Finding("mps", "available"))
    if len(findings) == 1:
        findings.append(Finding("gpu", "none that torch can use; everything runs on the CPU"))
    return findings


def _folder(name: str, path: Path) -> Finding:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Finding(name, f"{path.absolute()} cannot be written", good=False)
    free = shutil.disk_usage(existing).free / 1e9
    return Finding(name, f"{path.absolute()}, {free:.1f} GB free", good=free > LEAST_FREE_GB)
