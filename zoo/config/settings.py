"""Settings as they are written: YAML files, ``--set section.key=value``, and dictionaries from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from zoo.config.recipe import Recipe
from zoo.config.run import SECTIONS, TrainerSettings, WandbSettings
from zoo.config.values import Written, load_mapping, load_yaml
from zoo.core.errors import FORMER_NAMES, UserError, did_you_mean, unknown
from zoo.core.files import expanded, read_regular

RECIPES = Path(__file__).parents[1] / "recipes"


def published_recipes() -> dict[str, Path]:
    """The recipes of papers that come along, by the name that ``--config`` takes: files whose first line is a summary."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file with the sections of a Run, or a published recipe by its name where there is no such file.

    Raises:
        UserError: the file is missing or is not such a file.
    """
    file, published = expanded(path), published_recipes()
    if file.parent == Path() and not file.suffix and not file.exists():
        if str(path) not in published:
            hint = did_you_mean(str(path), published) or f"; published recipes: {', '.join(published)}"
            raise UserError(f"--config {path}: no such file{hint}")
        path = published[str(path)]
    tree = read_yaml(path, "--config")
    if not isinstance({} if tree is None else tree, dict):
        raise UserError(f"--config {path}: holds no sections ({', '.join(SECTIONS)})")
    return tree or {}


def read_yaml(path: str | Path, option: str) -> Any:
    """Read a YAML file that an option names.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    try:
        return load_yaml(read_regular(expanded(path)).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{option} {path}: not a text file") from None
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    except ValueError as error:
        raise UserError(f"{option} {path}: {error}") from None


def parse_setting(text: str, sections: tuple[str, ...] = SECTIONS) -> dict[str, dict[str, Any]]:
    """Parse a setting such as ``recipe.lr=0.1`` into section -> key -> value, which is interpreted by the type of the key.

    ``recipe={lr: 0.1, optimizer_args: {eps: 1e-8}}`` is several: ``recipe.lr`` and ``recipe.optimizer_args.eps``.

    Raises:
        UserError: not of that form, or an unknown section.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: write it as section.key=value, for example recipe.lr=0.1")
    if "." not in key and value.startswith("{"):
        section, _ = _section_and_name(f"{key.strip()}.*", text, sections)
        return {section: _items(text, value)}
    section, name = _section_and_name(key.strip(), text, sections)
    return {section: {name: Written(value)}}


def _items(text: str, value: str) -> dict[str, Any]:
    """The keys and values of a section, with a dotted key for each item of a dictionary."""
    items: dict[str, Any] = {}
    try:
        for key, inner in load_mapping(value).items():
            dotted = {f"{key}.{name}": item for name, item in inner.items()} if isinstance(inner, dict) else {}
            items.update(dotted or {key: inner})
        return {key: Written(item if isinstance(item, str) else json.dumps(item)) for key, item in items.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"--set {text}: {error}") from None


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


def full_key(name: str) -> str:
    """The key of a setting with its section, as in ``recipe.lr`` for ``lr`` or ``learning-rate``; empty if there is none."""
    name = name.replace("-", "_")
    section, dot, key = name.partition(".")
    if dot:
        return name if section in SECTIONS and key else ""
    for known in (name, FORMER_NAMES.get(name, name)):
        for section, schema in (("recipe", Recipe), ("trainer", TrainerSettings), ("wandb", WandbSettings)):
            if known.partition(".")[0] in schema.model_fields:
                return f"{section}.{known}"
    return ""


def _section_and_name(key: str, text: str, sections: tuple[str, ...]) -> tuple[str, str]:
    section, dot, name = key.partition(".")
    full = "" if dot else full_key(key)
    if full.partition(".")[0] in sections:
        raise UserError(f"--set {text}: name its section, too: --set {text.replace(key, full, 1)}")
    if not (dot and name):
        raise UserError(f"--set {text}: write it as section.key=value, for example recipe.lr=0.1")
    if section in SECTIONS and section not in sections:
        raise UserError(f"--set {text}: {section} settings do not apply here, only {', '.join(sections)}")
    if section not in sections:
        raise unknown("section", section, sections)
    return section, name
