"""Files of weights as training scripts write them, read without running anything in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo.core.errors import UserError, one_line, some, unknown
from zoo.core.files import require_regular
from zoo.spec import ImageSpec, spec_from_primitives
from zoo.tasks.weights import Weights
from zoo.training.checkpoints import KEY, read_checkpoint, refused_global, unusable
from zoo.training.exported import SUFFIX, read_exported, was_exported

# keys under which training scripts save the weights, the likelier first
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
KEYS_SHOWN = 8
LEVELS = 6  # of nested dictionaries
SAVE = "save the state dict with torch.save or safetensors"
# what other files begin with, and what archives contain
BEGINNINGS = {
    b"\x93NUMPY": f"a NumPy array: {SAVE}",
    b"\x89HDF": f"an HDF5 file: {SAVE}",
    b"<!": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file with git lfs pull",
}
MEMBERS = {
    "constants.pkl": "a TorchScript program: save torch.jit.load(file).state_dict() with torch.save",
    "archive_format": "a program of torch.export: save torch.export.load(file).state_dict with torch.save",
    ".npy": f"an archive of NumPy arrays: {SAVE}",
}
PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
PICKLES_OF_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # the first bytes of torch.save before version 1.6
MOST_OBJECTS = 100  # kinds of objects besides the weights
FILLED_BY_KEYS = re.compile(rf"Can only SETITEMS? for .* but got <class '{re.escape(__name__)}\.([^']+)'>")


def read_weights(path: Path, key: str = "") -> Weights:
    """Read a file of weights: safetensors, a checkpoint of the zoo, or a state dict saved by torch, alone or wrapped.

    Objects besides the weights, such as ``argparse.Namespace``, are left out; none of their code runs or is imported.

    Args:
        key: the key of the state dict in the file, or what its names begin with; empty takes averaged weights, if there are any.

    Raises:
        UserError: it cannot be read, contains no weights, or nothing under the key.
    """
    require_regular(path)
    try:
        if path.suffix == SUFFIX:
            content: Any = load_file(path)
            if was_exported(path):
                return weights_of_zoo(read_exported(path), str(path))
        else:
            content = _load(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    except pickle.UnpicklingError as error:
        _refuse_other_kinds(path)
        called = re.search(r"reduce for unrecognized function (\S+)", str(error))
        if not (asked := refused_global(error) or (called and f"what {called[1]} returns")):
            raise UserError(f"{path} is damaged or not a weight file") from None
        raise UserError(f"{path} is refused: it would run {asked}, but weights are plain data") from None
    except Exception as error:  # both readers raise whatever a damaged file leads them to
        _refuse_other_kinds(path)
        raise UserError(f"{path} is damaged or not a weight file") from error
    if isinstance(content, dict) and isinstance(content.get(KEY), dict):
        return weights_of_zoo(read_checkpoint(path), str(path))
    return _choose(content, path, key)


def _refuse_other_kinds(path: Path) -> None:
    """Refuse files that are something else than weights, by their first bytes or the members of an archive.

    Raises:
        UserError: saying what the file is.
    """
    with path.open("rb") as file:
        start = file.read(32)
    kinds = [kind for beginning, kind in BEGINNINGS.items() if start.lower().startswith(beginning.lower())]
    if start.startswith(PICKLES) and not start.startswith(PICKLES_OF_TORCH):
        kinds.append(f"a pickle that torch.save did not write: {SAVE}")
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        kinds += [kind for end, kind in MEMBERS.items() if any(name.endswith(end) for name in archive.namelist())]
    if kinds:
        raise UserError(f"{path} is {kinds[0]}")


def weights_of_zoo(checkpoint: dict[str, Any], origin: str) -> Weights:
    """The weights of a checkpoint or an exported file of the zoo."""
    try:
        spec = spec_from_primitives(checkpoint[KEY]["spec"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{origin} is damaged: {one_line(error, 150)}") from None
    run = checkpoint[KEY].get("run") or {}
    return Weights(origin, checkpoint["state_dict"], spec if isinstance(spec, ImageSpec) else None, model=run.get("model") or {})


# ---------------------------------------------------------------------------------------------- objects beside the weights


class StandIn(list):
    """Stands in for an object of any other library: takes what its pickle holds and does nothing with it."""

    origin = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __repr__(self) -> str:
        return self.origin


def _load(path: Path) -> Any:
    """``torch.load`` with ``weights_only=True``, where globals that torch does not know give stand-ins instead of an error."""
    inert: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about how the file was written
        while True:
            try:
                with torch.serialization.safe_globals([(inert[name], name) for name in inert]):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                name = refused_global(error)
                is_known = "was not an allowed global" in str(error)  # else torch refuses it whoever allows it
                if is_known and name and len(inert) < MOST_OBJECTS:
                    name = name if "." in name else f"builtins.{name}"
                    inert[name] = type(name, (StandIn,), {"origin": name})
                elif (filled := FILLED_BY_KEYS.search(str(error))) and inert.get(filled[1], StandInMapping) is not StandInMapping:
                    inert[filled[1]] = StandInMapping
                else:
                    raise


class StandInMapping:
    """The same, for an object whose pickle fills it by keys: torch fills plain dictionaries alone."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:
        return OrderedDict()


# ---------------------------------------------------------------------------------------------- which of its state dicts


def _choose(content: Any, path: Path, key: str) -> Weights:
    """The state dict under ``key``, or the one that is meant: averaged weights first."""
    found = dict(_state_dicts(content))
    state = next(iter(found.values()), None)
    if key:
        key = key.rstrip(".")
        within = [content, *found.values()]  # names may begin with the key inside the usual wrappers
        states = (state for each in within for state in dict(_state_dicts(_under(each, key))).values())
        state = next(states, None)
        if not state and found | (nested := dict.fromkeys(_keys(content))):
            keys = [*nested, *dict.fromkeys(name.partition(".")[0] for each in found.values() for name in each if "." in name)]
            hint = f"choose from {some(keys, KEYS_SHOWN)}" if keys else "omit recipe.weights_key"
            raise unknown(f"weights in {path} under", key, keys, hint)
    if not state:
        if keys := list(_keys(content)):
            places = some(map(repr, keys), KEYS_SHOWN)
            raise UserError(f"{path} has its weights under {places}: load them with --set recipe.weights_key={keys[0]}")
        raise UserError(f"{path} contains no weights: {_instead(content)}")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if reason := unusable(name, value) or ("complex" if value.is_complex() else ""):
            raise UserError(f"{path}: {name} is {reason}: weights are dense tensors of real numbers")
    others = {name: _kind(value) for name, value in state.items() if isinstance(name, str) and name not in tensors}
    chosen = key or next(iter(found))
    rest = [name for name in found if name != chosen]
    note = f" under {chosen!r} (--set recipe.weights_key={rest[0]} loads the others)" if chosen and rest else ""
    return Weights(str(path), tensors, objects=others, note=note)


def _state_dicts(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every state dict of a file, alone or under the usual keys, with its dotted key; averaged weights come first."""
    if not isinstance(content, dict):
        return
    inner = [key for key in (*AVERAGES, *WRAPPERS) if isinstance(content.get(key), dict)]
    below = [item for key in inner for item in _state_dicts(content[key], f"{path}.{key}" if path else key)]
    yield from below
    if not below and any(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        yield path, content


def _under(content: Any, key: str) -> Any:
    """What is under a dotted key: of nested dictionaries, whose own keys may have dots, or of names that begin with it."""
    if not key or not isinstance(content, dict):
        return None if key else content
    names = [name for name in content if isinstance(name, str)]
    below = (_under(content[name], key[len(name) + 1 :]) for name in names if f"{key}.".startswith(f"{name}."))
    inside = {name.removeprefix(f"{key}."): content[name] for name in names if name.startswith(f"{key}.")}
    return next((each for each in below if isinstance(each, dict)), inside)


def _keys(content: Any, path: str = "", levels: int = LEVELS) -> Iterator[str]:
    """The dotted keys of nested dictionaries with tensors."""
    if isinstance(content, dict) and levels:
        if path and any(isinstance(value, Tensor) for value in content.values()):
            yield path
        for name, value in content.items():
            if isinstance(name, str):
                yield from _keys(value, f"{path}.{name}" if path else name, levels - 1)


def _instead(content: Any) -> str:
    """What a file without weights holds."""
    values = content.values() if isinstance(content, dict) else [content]
    if objects := [value for value in values if isinstance(value, StandIn)]:
        return f"in their place is a pickled {_kind(objects[0])}, of which nothing was run: save its state_dict() instead"
    return f"expected a state dict, or one under {some(map(repr, WRAPPERS[:3]))}"


def _kind(value: Any) -> str:
    return value.origin if isinstance(value, StandIn) else type(value).__name__
