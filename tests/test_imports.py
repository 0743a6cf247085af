"""The floors of the house: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "torchvision", "torchmetrics", "wandb", "sklearn", "optuna", "matplotlib", "bokeh"}
LIGHT = [
    "zoo/cli.py",
    "zoo/__init__.py",
    "zoo/__main__.py",
    *(
        str(path.relative_to(ROOT))
        for folder in ("core", "config", "registry", "spec", "text", "commands", "api")
        for path in sorted((ROOT / "zoo" / folder).glob("*.py"))
    ),
    "zoo/callbacks/sparkline.py",
    "zoo/analysis/advice.py",
    "zoo/export/__init__.py",
    "zoo/export/formats.py",
    "zoo/pictures/__init__.py",
    "zoo/pictures/kinds.py",
    "zoo/training/weights/backbones.py",
    "zoo/training/finetuning.py",
    "zoo/training/run_folder.py",
    "zoo/training/sources.py",
    "zoo/training/trained_models.py",
    "zoo/training/watching.py",
    "zoo/studies/plan.py",
    "zoo/studies/space.py",
]
BASE = {"zoo.core", "zoo.registry", "zoo.spec", "zoo.text"}
SETTINGS = BASE | {"zoo.config"}
TASKS = SETTINGS | {"zoo.layers", "zoo.metrics", "zoo.optim", "zoo.tasks"}
TRAINING = TASKS | {"zoo.training"}
# folder or file -> the modules of ours that it may import, beside those of its own folder
FLOORS = {
    "zoo/callbacks": set(),
    "zoo/core": set(),
    "zoo/registry": {"zoo.core"},
    "zoo/spec": {"zoo.core"},
    "zoo/text": {"zoo.core", "zoo.spec"},
    "zoo/config": {"zoo.core", "zoo.registry"},
    "zoo/datamodules": BASE,
    "zoo/layers": SETTINGS,
    "zoo/optim": SETTINGS,
    "zoo/metrics": SETTINGS,
    "zoo/tasks": SETTINGS | {"zoo.layers", "zoo.metrics", "zoo.optim"},
    "zoo/models": SETTINGS | {"zoo.layers", "zoo.tasks"},
    "zoo/training": TASKS | {"zoo.callbacks", "zoo.datamodules.files"},
    "zoo/analysis": TRAINING | {"zoo.datamodules.files"},
    "zoo/checks": TRAINING,
    "zoo/pictures": TRAINING | {"zoo.analysis"},
    "zoo/export": TRAINING | {"zoo.datamodules.files"},
    "zoo/serve": TRAINING | {"zoo.datamodules.files"},
    "zoo/studies": TRAINING | {"zoo.pictures.figure"},
    "zoo/report": TRAINING | {"zoo.callbacks", "zoo.pictures"},
    "zoo/api": TRAINING | {"zoo.callbacks", "zoo.datamodules", "zoo.analysis", "zoo.export", "zoo.report", "zoo.studies"},
    "zoo/trained": TRAINING | {"zoo.api"},
    "zoo/__init__.py": SETTINGS | {"zoo.api"},
    "zoo/__main__.py": {"zoo.cli", "zoo.core"},
    "zoo/commands": {"zoo"},
    "zoo/cli.py": {"zoo"},
}
# by the names they are imported by: an sdist has no links to follow
SOURCES = sorted(
    Path(place, name) for place, _, names in os.walk(ROOT / "zoo", followlinks=True) for name in names if name.endswith(".py")
)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, as dotted names."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("name", LIGHT)
def test_what_answers_names_imports_nothing_heavy(name: str) -> None:
    assert not {module.partition(".")[0] for module in imports(ROOT / name, top_level_only=True)} & HEAVY


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    home, allowed = next((prefix, floor) for prefix, floor in FLOORS.items() if place == prefix or place.startswith(prefix + "/"))
    allowed = {*allowed, f"zoo.{home.removeprefix('zoo/').replace('/', '.')}"}
    ours = {module for module in imports(path) if module.partition(".")[0] in ("zoo", "datamodules", "callbacks", "cli")}
    strangers = {module for module in ours if not any(module == each or module.startswith(each + ".") for each in allowed)}
    assert not strangers, f"{place} may not import {strangers}"


def test_a_mistyped_name_is_answered_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['zoo', 'train', 'resnet2']\n"
        "from zoo.cli import app\n"
        "try: app()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'lightning', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mistyped_picture_or_run_is_answered_without_torch_or_matplotlib() -> None:
    code = (
        "import sys\nfrom zoo.cli import app\n"
        "for arguments in (['curve', 'first'], ['curves', 'first'], ['filters', 'resnet2'], ['templates']):\n"
        "    sys.argv = ['zoo', 'picture', *arguments]\n"
        "    try: app()\n"
        "    except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wrong_option_or_recipe_key_is_answered_without_torch() -> None:
    code = (
        "import sys\nfrom zoo.cli import app\n"
        "for setting in ('model.dept=3', 'recipe.lr=fast', 'data.augmentt=x', 'trainer.device=2'):\n"
        "    sys.argv = ['zoo', 'train', 'resnet20', '--set', setting]\n"
        "    try: app()\n"
        "    except SystemExit as stop: assert stop.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
