"""Every command that a message advises exists, with the options that it names; and those that can be provoked work."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from zoo.cli import app
from zoo.registry.registry import scan

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "cli.py", *sorted(path for name in ("zoo", "callbacks", "datamodules") for path in (ROOT / name).rglob("*.py"))]
ZOO = {"again", "self.command", "subject.command", "zoo_command(context)"}  # what stands for ``zoo`` in a message
VALUE = "\N{BULLET}"  # in place of what a message fills in


def texts(tree: ast.AST) -> Iterator[str]:
    """The string literals of a module, with a mark in place of what f-strings fill in."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (
                part.value if isinstance(part, ast.Constant) else "zoo" if ast.unparse(part.value) in ZOO else VALUE
                for part in node.values
            )
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def advised(text: str) -> Iterator[list[str]]:
    """The words of each command in a text, without ``zoo``, up to the end of a sentence, a line or the markup around it."""
    text = re.sub(r"\[/?\w+\]", "  ", text)  # of rich
    for found in re.finditer(r"(?<![\w/.-])zoo(?=((?: [^\s`]+)+))", text):
        if re.search(r"\b(?:[Tt]he|bestiary|of|import)$", text[: found.start()].rstrip()):
            continue
        words = []
        for word in found[1].split():
            if word.startswith(("(", "$(")):  # a remark, or a command in a command
                break
            word = word.removesuffix("...")  # of a placeholder for several
            words.append(word.rstrip(".,;:)"))
            if words[-1] != word:
                break
        yield words


def commands() -> dict[tuple[str, ...], Any]:
    root = typer.main.get_command(app)
    context = root.context_class(root)
    found = {}
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        found[(name,)] = command
        if hasattr(command, "list_commands"):
            found |= {(name, inner): command.get_command(context, inner) for inner in command.list_commands(context)}
    return found


def test_every_command_in_a_string_of_the_sources_exists_with_its_options() -> None:
    known, checked, wrong = commands(), 0, []
    for path in SOURCES:
        for text in texts(ast.parse(path.read_text())):
            for words in advised(text):
                if words[0] == "--plugin":
                    words = words[2:] if words[2:3] and (words[2],) in known else []
                if not words or words[0].startswith((VALUE, "-")):
                    continue
                command = known.get(tuple(words[:2])) or known.get(tuple(words[:1]))
                options = [word.partition("=")[0].rstrip(".,:'\"") for word in words if word.startswith("--")]
                taken = {option for parameter in getattr(command, "params", ()) for option in parameter.opts} | {"--help"}
                checked += 1
                if command is None or not set(options) <= taken:
                    wrong.append(f"{path.relative_to(ROOT)}: zoo {' '.join(words)}")
    assert not wrong, "\n".join(wrong)
    assert checked > 100


# ------------------------------------------------------------------ followed

QUICK = ("--set", "recipe.epochs=1", "--set", "trainer.limit_train_batches=2", "--set", "trainer.limit_test_batches=1")
NAMES = {
    "NAME": "softmax", "RUN": "run", "IMAGE": "a.png", "FOLDER": "photos", "FILE": "classes.csv", "NEW": "new", "TEXT": "what",
}  # fmt: skip
EXIT_CODES = {"autopsy": 1}  # the fault occurs again


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on images and one on points."""
    from zoo.config.recipe import parse_setting, resolve
    from zoo.training import engine
    from zoo.training.run_folder import RunFolder

    path = tmp_path_factory.mktemp("runs")
    for name, data in (("run", "digits"), ("points", "spirals")):
        (path / name).mkdir()
        run = resolve(scan(), "softmax", {}, [parse_setting(text) for text in (f"data.name={data}", *QUICK[1::2])])
        engine.train(scan(), run, folder=RunFolder(path / name), progress=False)
    return path


@pytest.fixture
def runs(trained: Path) -> Path:
    shutil.copytree(trained, "runs")
    Image.new("L", (8, 8)).save("a.png")
    for label, name in enumerate(("ant", "bee")):
        for number in range(6):
            Path("photos", name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number * 40, label, 9)).save(f"photos/{name}/{number}.png")
    return Path("runs")


def follow(zoo, text: str) -> list[str]:
    """Run the commands that a text advises, with names in the place of placeholders; what was run."""
    followed = []
    for words in advised(text):
        words = shlex.split(" ".join(words))
        names = {**NAMES, "NAME": "digits"} if words[0] == "data" else NAMES
        words = [re.sub(r"\b(" + "|".join(names) + r")\b", lambda found, names=names: names[found[0]], word) for word in words]
        if words[0] in ("train", "finetune") and "--resume" not in words:
            words = [*words, *QUICK]
        answer = zoo(*words)
        assert answer.code == EXIT_CODES.get(words[0], 0), (words, answer.err)
        followed.append(words[0])
    return followed


def age(runs: Path) -> None:
    """Make a run look as if it had stopped an hour ago, within training."""
    file = runs / "run/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines() if "test/" not in line]
    file.write_text("".join(json.dumps({**line, "time": line["time"] - 3600}) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("train --resume run", ["predict", "test", "picture"]),
        ("test run", ["picture", "picture", "picture"]),
        ("test points", ["picture", "picture", "picture"]),
        ("train softmax --name run", ["train"]),
        ("train --resume run --set recipe.lr=0.5", ["train"]),
        ("predict run a.png", ["picture"]),
        ("picture curves run", ["picture"]),
        ("picture mistakes points", ["picture"]),
        ("picture templates points", ["picture"]),
        ("report run", ["picture", "train"]),
        ("watch run --once", ["train"]),
        ("list", ["train", "report", "show", "train"]),
        ("list --losses", ["train"]),
        ("list --optimizers", ["train"]),
        ("list --augmentations", ["train"]),
        ("show softmax", ["train", "show"]),
        ("show softmax --layers", ["train", "check"]),
        ("show digits", ["data"]),
        ("data list", ["train", "data", "data"]),
        ("data show digits", ["data", "train"]),
        ("data show folder", ["data", "train"]),
        ("data fetch digits", ["data"]),
        ("data advise folder --set data.root=photos", ["finetune"]),
        ("diagnose softmax", ["train"]),
        pytest.param("tune softmax --set recipe.epochs=2", ["train"], marks=pytest.mark.slow),
        pytest.param("search softmax --over recipe.lr=log:1e-4..1e-1 --epochs 1 --trials 1", ["train"], marks=pytest.mark.slow),
        pytest.param("picture", ["picture", "picture"], marks=pytest.mark.slow),
        pytest.param("picture gradient-flow", ["train"], marks=pytest.mark.slow),
        ("finetune run --data digits --keep-head --plan", ["finetune"]),
        ("train", ["list"]),
        ("check qqqq", ["list", "data"]),
        ("train mlp --set recipe.lr=1e30 --epochs 2 --name broken", ["autopsy", "train"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_command_advises_works(zoo, runs: Path, command: str, least: list[str]) -> None:
    if command.startswith("watch"):
        age(runs)
    answer = zoo(*command.split())
    assert "Traceback" not in answer.err
    assert follow(zoo, answer.out + answer.err) == least, answer


PICTURES = {  # of a run, by its model, one for each task
    "resnet20": ["filters", "confusion", "mistakes", "calibration", "saliency"], "vit": ["attention"], "char-lstm": ["cells"],
    "captioner-attention": ["captions", "attention"], "vqa-attention": [], "dialogue-discriminative": [],
    "navigator": ["path"], "lstm": [],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", PICTURES)
def test_what_a_run_and_its_pictures_advise_works_for_every_task(zoo, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # of a chat that ends at once
    Image.new("RGB", (32, 32)).save("a.png")
    tiny = [f"--set=model.{key}={json.dumps(value)}" for key, value in scan().model(model).tiny.items()]
    for command in (["train", model, "--name", "run", *tiny, *QUICK], *(["picture", kind, "run"] for kind in PICTURES[model])):
        answer = zoo(*command)
        assert answer.code == 0, (command, answer.err)
        assert follow(zoo, answer.out), answer
