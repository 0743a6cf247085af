"""The README and every page of ``docs/`` do what they say: their commands are run, their tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

from zoo import __version__
from zoo.config.recipe import Recipe

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "docs" / "course"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(COURSE.glob("*.md"))]
SHOWN = re.compile(r"!\[[^]]+\]\(pictures/([^)]+)\)")
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_readme_works_with_short_trainings(zoo) -> None:
    run_page(zoo, PAGES[0], "--epochs", "1")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "```bash" in page.read_text()], ids=lambda page: page.name)
def test_every_command_of_a_page_works(zoo, page: Path) -> None:
    run_page(zoo, page, *(("--epochs", "1") if page.parent == COURSE else ()))  # docs/pictures.py runs the course as it stands


def run_page(zoo, page: Path, *of_trainings: str) -> None:
    """Run a page's commands, with more options for those that begin a training."""
    ran, names = 0, {}
    for picture in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8), "teal").save(picture)
    for language, note, text in FENCE.findall(page.read_text()):
        if "file=" in note:
            Path(note.strip().removeprefix("file=")).write_text(text)
        if language == "python" and "goes on" in note:  # where the commands above ended
            exec(text, names)
        if language != "bash" or "skip" in note:
            continue
        for line in text.splitlines():
            command = shlex.split(line, comments=True)
            if command[:1] == ["pip"]:
                assert command[:3] == ["pip", "install", "-e"]
                command = command[command.index("&&") + 1 :]
            if command[:1] == ["zoo"]:
                begins = command[1] == "train" and "--resume" not in command
                answer = zoo(*command[1:], *(of_trainings if begins else ()))
                assert (answer.code != 0) == ("fails" in note), (line, answer.err)
                if line.endswith("zoo train resnet20") and not of_trainings:  # "to 98 or 99% test accuracy"
                    assert float(re.search(r"test/accuracy ([\d.]+)", answer.out)[1]) >= 0.975
                ran += 1
    assert ran
    for picture in SHOWN.findall(page.read_text()):
        assert Path(picture).is_file(), picture


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("python", 5),
        ("multilabel", 1),
        ("regression", 1),
        ("data", 1),
        ("recurrence", 3),
        ("trained", 1),
        ("autopsy", 1),
        ("inside", 1),
        ("lightning", 3),
        ("api/callbacks", 1),
        pytest.param("shipping", 3, marks=pytest.mark.slow),
    ],
)
def test_the_python_of_a_page_runs(page: str, least: int) -> None:
    found = FENCE.findall((ROOT / "docs" / f"{page}.md").read_text())
    blocks = [text for language, note, text in found if language == "python" and "skip" not in note]
    assert len(blocks) >= least
    names: dict[str, object] = {}
    for text in blocks:  # each goes on where the one before it ended, and asserts what it claims
        exec(text, names)


def test_skipped_commands_exist(zoo) -> None:
    lines = {line for page in PAGES for line in page.read_text().splitlines() if line.startswith("zoo ")}
    for name in sorted({shlex.split(line, comments=True)[1] for line in lines}):
        assert name.startswith("-") or zoo(name, "--help").code == 0, name


def test_pictures_of_the_course_are_small_and_shown() -> None:
    """The slow test above finds that the commands of each page write them."""
    shown = [picture for page in COURSE.glob("*.md") for picture in SHOWN.findall(page.read_text())]
    kept = {path.relative_to(COURSE / "pictures").as_posix(): path for path in (COURSE / "pictures").rglob("*.png")}
    assert sorted(shown) == sorted(kept)
    sizes = [path.stat().st_size for path in kept.values()]
    assert max(sizes) <= 60_000 and sum(sizes) < 1.5 * 1024**2


def test_the_page_on_training_tells_every_key_of_a_recipe() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE))
    for name, field in Recipe.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert rows[name] == str(default), name


def test_every_page_is_linked_and_has_its_place_in_the_navigation() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    linked = re.findall(r"\]\(docs/([\w/]+\.md)\)", (ROOT / "README.md").read_text())
    assert set(linked) == {page for page in pages if "/" not in page} - {"index.md"}
    placed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(placed) == sorted(pages)


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
