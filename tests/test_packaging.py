"""What others get: an sdist that is whole, and a wheel with the package and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def files_below(folder: Path) -> set[str]:
    """The files of a tree, links followed, by their paths from its parent."""
    found = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return {str(path.relative_to(folder.parent)) for path in found if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of a copy of this tree as ``source/``, and the wheel that pip builds from it, without a network."""
    place = tmp_path_factory.mktemp("packaging")
    skipped = shutil.ignore_patterns(".*_cache", ".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "runs", "site")
    shutil.copytree(ROOT, place / "checkout", symlinks=True, ignore=skipped)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(place)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=place / "checkout", check=True, capture_output=True)
    (sdist,) = place.glob("*.tar.gz")
    wheel = [
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--wheel-dir",
        place,
        sdist,
    ]
    subprocess.run([sys.executable, "-m", "pip", *wheel], check=True, capture_output=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    next(place.glob("bestiary-*/")).rename(place / "source")
    return place


def test_the_sdist_holds_tests_pages_and_each_module_once(built: Path) -> None:
    inside = {name.removeprefix("source/") for name in files_below(built / "source")}
    for folder in ("benchmarks", "docs", "tests", "zoo"):
        assert files_below(ROOT / folder) <= inside
    top = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CITATION.cff",
        "mkdocs.yml",
        "pyproject.toml",
    }
    assert top | {".ci/run", ".pre-commit-config.yaml", ".github/workflows/ci.yml"} <= inside
    assert not any(name.startswith(("callbacks/", "datamodules/")) or name == "cli.py" for name in inside)


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = archive.read(metadata).decode()
    information = metadata.removesuffix("METADATA")
    assert {name for name in names if not name.startswith(information)} == files_below(ROOT / "zoo")
    assert {"zoo/py.typed", "zoo/cli.py", "zoo/report/page.html", "zoo/report/style.css", "zoo/serve/page.html"} <= names
    assert f"{information}licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0\n" in about


def test_the_installed_wheel_answers_and_the_tests_of_the_sdist_run(built: Path, workplace: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site = workplace / "site"
    install = ["install", "--no-index", "--no-deps", "--disable-pip-version-check", "--target", site, wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import zoo.cli, zoo.callbacks, zoo.datamodules; print(zoo.__file__)"]
    answer = subprocess.run(where, cwd=workplace, env=environment, check=True, capture_output=True, text=True)
    assert Path(answer.stdout.strip()).is_relative_to(site)
    listed = subprocess.run(
        [site / "bin" / "zoo", "list"], cwd=workplace, env=environment, check=True, capture_output=True, text=True
    )
    assert "resnet20" in listed.stdout
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "tests/test_imports.py",
        "tests/config",
    ]
    subprocess.run(tests, cwd=built / "source", env=environment, check=True)
