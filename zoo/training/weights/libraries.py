"""Weights that torchvision, timm and the Hugging Face hub publish: found in their caches, or downloaded and verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.core.download import fetch
from zoo.core.errors import UserError, one_line
from zoo.spec import ImageSpec
from zoo.tasks.library_images import timm_spec, torchvision_spec
from zoo.tasks.weights import Weights
from zoo.training.weights.backbones import HUB, find_backbone
from zoo.training.weights.files import read_weights

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm names them, the safer first
DIGITS = re.compile(r"-([0-9a-f]{8,64})\.")  # of a SHA-256, in the name of a file


def library_spec(name: str) -> ImageSpec:
    """The images and classes of a library's weights, by the name of a backbone, without reading the weights.

    Raises:
        UserError: no such backbone, or its configuration is on the hub and cannot be reached.
    """
    backbone = find_backbone(name)
    if backbone.library == "torchvision":
        return torchvision_spec(_torchvision_weights(backbone.name))
    return timm_spec(_timm_config(backbone.network))


def read_library_weights(name: str) -> Weights:
    """Read a library's weights, by the name of a backbone: from its cache, or downloaded and verified.

    Raises:
        UserError: no such backbone, it cannot be fetched, or its file is damaged.
    """
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
