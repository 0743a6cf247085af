"""The floors of the house: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "torchvision", "torchmetrics", "wandb", "sklearn", "optuna", "matplotlib", "bokeh"}
LIGHT = [
    "cli.py",
    "zoo/__init__.py",
    *(
        f"zoo/{name}.py"
        for name in (
            "advice",
            "layers/names",
            "backbones",
            "errors",
            "fetch",
            "finetuning",
            "freezing",
            "options",
            "randomness",
            "ranks",
            "recipe",
            "registry",
            "spec",
            "text_files",
            "watching",
            "words",
        )
    ),
    *(f"zoo/commands/{path.name}" for path in (ROOT / "zoo/commands").glob("*.py")),
    "callbacks/sparkline.py",
    "zoo/export/__init__.py",
    "zoo/export/formats.py",
    "zoo/pictures/__init__.py",
    "zoo/pictures/kinds.py",
    "zoo/training/run_folder.py",
    "zoo/search/plan.py",
    "zoo/search/space.py",
]
BASE = {
    "zoo.core.errors",
    "zoo.spec",
    "zoo.layers.names",
    "zoo.core.randomness",
    "zoo.core.ranks",
    "zoo.registry.registry",
    "zoo.core.download",
    "zoo.text.files",
    "zoo.text.tokenization",
}
SETTINGS = BASE | {"zoo.config.options", "zoo.config.recipe", "zoo.config.freezing"}
# folder or file -> the modules of ours that it may import; more specific entries first
FLOORS = {
    "cli.py": {"zoo"},
    "zoo/commands": {"zoo"},
    "callbacks": {"callbacks"},
    "datamodules": BASE | {"datamodules"},
    "zoo/__init__.py": SETTINGS,
    "zoo/layers": SETTINGS | {"zoo.core.fingerprint", "zoo.layers"},
    "zoo/optim": SETTINGS | {"zoo.optim"},
    "zoo/metrics": SETTINGS,
    "zoo/tasks": SETTINGS | {"zoo.core.fingerprint", "zoo.optim", "zoo.metrics", "zoo.tasks.decoding", "zoo.tasks"},
    "zoo/models": SETTINGS | {"zoo.tasks", "zoo.layers"},
    "zoo/training": SETTINGS
    | {
        "zoo.training.backbones",
        "zoo.optim",
        "zoo.tasks",
        "zoo.tasks.decoding",
        "zoo.training",
        "callbacks",
        "zoo.datamodules.files.images",
    }
    | {"zoo.datamodules.files.progress"},
    "zoo/advice.py": SETTINGS | {"zoo.datamodules.files.images"},
    "zoo/check.py": SETTINGS | {"zoo.checks"},
    "zoo/checks": SETTINGS | {"zoo.tasks", "zoo.training", "zoo.checks"},
    "zoo/decoding.py": SETTINGS,
    "zoo/doctor.py": SETTINGS | {"zoo.training"},
    "zoo/pictures": SETTINGS
    | {"zoo.pictures", "zoo.metrics", "zoo.tasks", "zoo.training", "zoo.analysis.gradient_flow", "zoo.layers"},
    "zoo/serve": SETTINGS | {"zoo.tasks", "zoo.training", "zoo.serve", "zoo.datamodules.files.images"},
    "zoo/report": SETTINGS | {"zoo.pictures", "zoo.tasks.decoding", "zoo.metrics", "zoo.tasks", "zoo.training", "zoo.report"},
    "zoo/search": SETTINGS | {"zoo.tasks", "zoo.training", "zoo.search", "zoo.pictures.figure"},
    "zoo/export": SETTINGS | {"zoo.tasks", "zoo.training", "zoo.export"},
    "zoo/finetuning.py": SETTINGS | {"zoo.training.backbones", "zoo.training"},
    "zoo/gradient_flow.py": set(),
    "zoo/gradient_check.py": SETTINGS | {"zoo.tasks", "zoo.training"},
    "zoo/layer_table.py": SETTINGS | {"zoo.tasks", "zoo.training", "zoo.analysis.receptive_field"},
    "zoo/receptive_field.py": set(),
    "zoo/watching.py": SETTINGS | {"zoo.training", "callbacks"},
    "zoo/recipe.py": BASE | {"zoo.config.options", "zoo.config.freezing", "zoo.training.backbones"},
}
SOURCES = sorted(
    path for path in [ROOT / "cli.py", *(p for top in ("zoo", "datamodules", "callbacks") for p in (ROOT / top).rglob("*.py"))]
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
    allowed = next((floor for prefix, floor in FLOORS.items() if place == prefix or place.startswith(prefix + "/")), SETTINGS)
    ours = {module for module in imports(path) if module.partition(".")[0] in ("zoo", "datamodules", "callbacks", "cli")}
    strangers = {module for module in ours if not any(module == a or module.startswith(a + ".") for a in allowed)}
    assert not strangers, f"{place} may not import {strangers}"


def test_a_mistyped_name_is_answered_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['zoo', 'train', 'resnet2']\n"
        "from cli import app\n"
        "try: app()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'lightning', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mistyped_picture_or_run_is_answered_without_torch_or_matplotlib() -> None:
    code = (
        "import sys\nfrom cli import app\n"
        "for arguments in (['curve', 'first'], ['curves', 'first'], ['filters', 'resnet2'], ['templates']):\n"
        "    sys.argv = ['zoo', 'picture', *arguments]\n"
        "    try: app()\n"
        "    except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wrong_option_or_recipe_key_is_answered_without_torch() -> None:
    code = (
        "import sys\nfrom cli import app\n"
        "for setting in ('model.dept=3', 'recipe.lr=fast', 'data.augmentt=x', 'trainer.device=2'):\n"
        "    sys.argv = ['zoo', 'train', 'resnet20', '--set', setting]\n"
        "    try: app()\n"
        "    except SystemExit as stop: assert stop.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
