"""Hundreds of bad inputs over all commands, in one process: one line, the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from PIL import Image

from zoo.config.recipe import Recipe
from zoo.config.run import TrainerSettings, WandbSettings
from zoo.registry.annotations import parse_annotation
from zoo.registry.registry import scan

SECONDS = 30  # for a command, after which it hangs
QUICK = ("--epochs", "1", "--set", "trainer.limit_train_batches=2", "--set", "trainer.limit_val_batches=1")
NOTHING = ("error:", "warning:", "fetching ", "resuming ")  # what lines on standard error begin with


@dataclass(frozen=True)
class Case:
    """A command and what is wrong with its world.

    Attributes:
        prepare: changes the working folder before the command; what it makes is no leftover.
        codes: allowed exit codes.
    """

    arguments: tuple[str, ...]
    prepare: Callable[[], object] = lambda: None
    variables: dict[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (2,)

    def __str__(self) -> str:
        text = " ".join(argument if len(argument) < 60 else f"{argument[:60]}..." for argument in self.arguments)
        return ascii(" ".join([*(f"{key}={value}" for key, value in self.variables.items()), text]))


def case(*arguments: str, prepare: Callable[[], object] = lambda: None, codes: tuple[int, ...] = (2,), **variables: str) -> Case:
    return Case(arguments, prepare, variables, codes)


# ---------------------------------------------------------------------------------------------- names

NAMES = (
    "", " ", "nope", "resnet2", "a" * 300, "../x", "/", ".", "..", "~nobody/x", "mlp ", "MLP", "naïve-ü", "🦊", "x\ny",
    "\x1b[31mred", "x/y/z", "nan", "0", "-1", "[", "{}", "*", "%s", "$(x)", "a b", "\udce9", "first/", "first/run.yaml", "runs",
)  # fmt: skip
MODEL_COMMANDS = (
    ("show", "{}"), ("train", "{}"), ("train", "mlp", "--data", "{}"), ("finetune", "{}", "--data", "digits"), ("tune", "{}"),
    ("diagnose", "{}"), ("check", "{}"), ("search", "{}", "--over", "recipe.lr=log:1e-4..1e-1"), ("data", "show", "{}"),
    ("data", "fetch", "{}"), ("data", "preview", "{}"), ("data", "advise", "{}"), ("picture", "{}", "first"),
    ("picture", "filters", "{}"), ("picture", "regions", "--data", "{}"), ("export", "first", "--to", "{}"),
)  # fmt: skip
RUN_COMMANDS = (
    ("test", "{}"), ("predict", "{}", "image.png"), ("sample", "{}"), ("chat", "{}", "image.png"), ("serve", "{}"),
    ("export", "{}", "--to", "hub"), ("picture", "curves", "{}"), ("report", "{}"), ("autopsy", "{}"), ("watch", "{}"),
    ("train", "--resume", "{}"), ("embed", "{}", "image.png"), ("embed", "first", "{}"), ("probe", "{}"),
    ("test", "first", "--checkpoint", "{}"), ("predict", "first", "{}"), ("search", "mlp", "--show", "--name", "{}"),
    ("list", "{}"), ("data", "list", "{}"), ("list", "--task", "{}"), ("picture", "saliency", "first", "{}"),
)  # fmt: skip


def names() -> Iterator[Case]:
    for command in (*MODEL_COMMANDS, *RUN_COMMANDS):
        for name in NAMES:
            arguments = tuple(word.replace("{}", name) for word in command)
            if name.startswith("-") and "--" not in command[-2]:
                arguments = (*arguments[: command.index("{}")], "--", *arguments[command.index("{}") :])
            if not is_fine(command, name):
                yield Case(arguments)


def is_fine(command: tuple[str, ...], name: str) -> bool:
    """Whether the command succeeds with that name, or reads all files of the machine."""
    if command[0] == "list" or command[:2] == ("data", "list"):
        return name in ("", " ", "*", "0", "-1", "MLP", "resnet2")
    if name == "first/":
        not_runs = ("sample", "chat", "autopsy", "show", "check", "data", "search")
        return command[0] not in not_runs and command[:2] not in (("picture", "{}"), ("picture", "filters"), ("export", "first"))
    if name == "" and command[1] == "{}":
        return command[0] == "picture"
    if command[0] == "report":  # which takes patterns
        return name == "*"
    if command[:2] == ("data", "show"):
        return name in ("/", ".", "..", "runs")  # folders, of which nothing is read
    if "--data" in command:
        return name == "/"
    return name in ("/", ".", "..") and (command[:2] in (("predict", "first"), ("embed", "first"), ("picture", "saliency")))


# ---------------------------------------------------------------------------------------------- settings

WRONG = {
    bool: ("maybe", "7", "[]"),
    int: ("x", "1.5", "[]", "nan", "-1", "{}"),
    float: ("x", "nan", "inf", "-1", "[]"),
    str: (),
    dict: ("x", "[1]", "7"),
    tuple: ("x", "{a: 1}", "7"),
    list: ("x", "{a: 1}", "7"),
}
ANY_NUMBER = {"devices"}  # an integer below zero is all devices


def wrong_values(annotation: Any) -> tuple[str, ...]:
    """YAML texts that are no value of a type: wrong for each of its alternatives."""
    if get_origin(annotation) is typing.Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (UnionType, typing.Union):
        parts = [wrong_values(part) for part in get_args(annotation) if part is not type(None)]
        return tuple(value for value in parts[0] if all(value in part for part in parts[1:]))
    if get_origin(annotation) is Literal:
        return ("nope", "[]", "{}")
    return WRONG.get(get_origin(annotation) or annotation, ())


def settings() -> Iterator[Case]:
    for section, schema in (("recipe", Recipe), ("trainer", TrainerSettings), ("wandb", WandbSettings)):
        for key, info in schema.model_fields.items():
            for value in wrong_values(info.annotation):
                yield case("train", "mlp", "--set", f"{section}.{key}={value}")
        yield case("train", "mlp", "--set", f"{section}.nope=1")
        yield case("train", "mlp", "--set", f"{section}=1")
    for key in ("optimizer", "loss", "freeze", "schedule", "weights"):
        for value in ("nope", "../nope", "a" * 300):
            yield case("train", "mlp", "--set", f"recipe.{key}={value}")
    for text in ("", "=", "recipe.lr", "recipe.=1", ".lr=1", "nope.lr=1", "recipe.lr==", "recipe.lr=0.1=2", "recipe..lr=1"):
        yield case("train", "mlp", "--set", text)


def options() -> Iterator[Case]:
    """Options of all models and data sets: of another type, or below any range."""
    registry = scan()
    seen: set[tuple[str, str]] = set()
    for entry in (*registry.models.values(), *registry.data.values()):
        for option in entry.options:
            if (entry.class_name, option.name) in seen:
                continue
            seen.add((entry.class_name, option.name))
            annotation = parse_annotation(option.type)
            values = wrong_values(annotation)[:2] + (("-3",) if annotation in (int, float) else ())
            for value in values:
                if entry.kind == "model":
                    few = "num_images" in registry.data[entry.data].defaults
                    images = ("--set", "data.num_images=50") if few else ()
                    yield case("train", entry.name, "--set", f"model.{option.name}={value}", *images, *QUICK)
                else:
                    yield case("data", "preview", entry.name, "--set", f"data.{option.name}={value}")


def too_large() -> Iterator[Case]:
    for name, *changed in (
        ("mlp", "model.hidden_sizes=[1000000000]"), ("mlp", "model.hidden_sizes=[1000000000000000000]"),
        ("mlp", "model.hidden_sizes=[1000000,100000]", "data.size=100"), ("mlp", "data.size=1000000"),
        ("convnet", "data.size=1000000"), ("resnet20", "model.width=1000000"), ("resnet20", "model.depth=600000002"),
        ("vit", "model.embed_dim=1000000000"), ("vit", "model.depth=1000000000"), ("char-lstm", "model.hidden_size=100000000"),
        ("mlp", "data.augment=crop:60000"), ("mlp", "data.augment=cutout:60000"), ("mlp", "data.augment=crop:1e400"),
        ("captioner", "data.num_images=1000000000000"), ("captioner", "data.size=100000"),
        ("mlp", "recipe.epochs=9999999999999999999999x"),
    ):  # fmt: skip
        yield case("train", name, *(word for text in changed for word in ("--set", text)))
    yield case("data", "preview", "digits", "--set", "data.size=1000000")
    yield case("data", "preview", "shapes-captions", "--set", "data.num_images=1000000000000")
    yield case("train", "mlp", "--set", f"wandb.tags=[{','.join(['x'] * 200_000)}]")


def after_the_start() -> Iterator[Case]:
    """What Lightning or torch refuses once they run."""
    batch_norm = ("--set", "model.norm=batch", "--set", "recipe.batch_size=1")
    yield case("train", "mlp", *QUICK[:4], "--set", "trainer.limit_val_batches=0.01")
    yield case("train", "mlp", *QUICK, "--set", "trainer.limit_test_batches=0.01")
    yield case("train", "mlp", "--set", "trainer.limit_train_batches=0.01")
    yield case("test", "first", "--set", "trainer.limit_test_batches=0.01")
    yield case("train", "mlp", *batch_norm)
    for key, values in {
        "accelerator": ("tpu", "hpu", "ipu", "nope", ""),
        "strategy": ("xla", "single_xla", "ddp_notebook", "deepspeed", "nope", ""),
        "devices": ("0", "-2", "1000", "[0,0]", "x", "1.5", "[]"),
        "limit_train_batches": ("2.5", "0", "-1", "x"),
    }.items():
        for value in values:
            yield case("train", "mlp", *(QUICK if "limit" not in key else ()), "--set", f"trainer.{key}={value}")
    yield case("train", "mlp", "--precision", "16", "--accelerator", "gpu")
    yield case("train", "mlp", "--wandb", "nope")
    yield case("train", "knn", "--set", "recipe.lr=0.5")
    yield case("train", "knn", "--set", "model.k=100000")


# ---------------------------------------------------------------------------------------------- flags and files

LONG = "a" * 300


def flags() -> Iterator[Case]:
    numbers = ("x", "-1", "1.5", "", "nan", "1e400", "²", "0x1")
    for command, flag, wrong in (
        (("train", "mlp"), "--epochs", numbers), (("finetune", "first"), "--epochs", numbers[:3]),
        (("train", "mlp"), "--precision", ("x", "8", "")), (("train", "mlp"), "--nodes", numbers[:3]),
        (("predict", "first", "image.png"), "--top", numbers), (("predict", "first", "image.png"), "--beams", ("x", "2")),
        (("predict", "first", "image.png"), "--question", ("what",)),
        (("predict", "first", "image.png"), "--temperature", ("x",)),
        (("sample", "text"), "--length", (*numbers, "0")), (("sample", "text"), "--samples", ("x", "0", "-1")),
        (("sample", "text"), "--temperature", ("x", "nan", "-1", "0", "inf", "")), (("sample", "text"), "--top-k", ("x", "-1")),
        (("sample", "text"), "--top-p", ("x", "nan", "-1", "0", "2")), (("sample", "text"), "--seed", ("x", "-1")),
        (("sample", "text"), "--beams", ("x", "-1")), (("sample", "text"), "--prompt", ("🦊", "\ud800")),
        (("serve", "first"), "--port", (*numbers, "65536", "99999999999")), (("serve", "first"), "--max-mb", (*numbers, "0")),
        (("serve", "first"), "--host", ("", "nope.invalid", "1.2.3.4.5", LONG, "a b")),
        (("serve", "first"), "--allow-host", ("", "http://x", "a b", "*")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--trials", (*numbers, "0")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--folds", (*numbers, "0")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--sampler", ("nope", "", "grid")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--pruner", ("nope", "")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--metric", ("nope", "val/nope")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--workers", ("x", "0", "-1")),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1", "--trials", "1"), "--name", ("../x", ".x", LONG)),
        (("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1"), "--storage", ("nope", "sqlite:////proc/x.db", "x://y")),
        (("search", "mlp"), "--over", (
            "", "x", "recipe.lr", "recipe.lr=1", "recipe.lr=log:0..1", "recipe.lr=log:1..0", "recipe.lr=uniform:nan..1",
            "recipe.lr=uniform:1e400..2", "recipe.lr=choice:", "recipe.lr=choice:a,b", "recipe.lr=choice:[", "nope.x=choice:1,2",
            "model.nope=choice:1,2", "trainer.devices=choice:1,2", "data.name=choice:digits,mnist", "recipe.epochs=uniform:1..x",
            "recipe.lr=log:1e-4..1e-1:x", "recipe.lr=log:1e-4..1e-1:1", "=choice:1", "recipe.lr=normal:1..2",
        )),
        (("picture", "attention", "first"), "--layer", ("1",)), (("picture", "saliency", "first"), "--class", ("nope", "")),
        (("picture", "cells", "text"), "--units", ("x", "-1", "99999")),
        (("picture", "cells", "text"), "--text", ("nope", "", ".", LONG)),
        (("picture", "curves", "first"), "--metric", ("nope",)),
        (("finetune", "first", "--data", "digits"), "--freeze", ("nope", "until:", "until:nope", "epochs:", "epochs:x")),
        (("finetune", "first", "--data", "digits"), "--weights", ("nope", "", ".", LONG, "image.png")),
        (("train", "mlp"), "--config", ("nope", "", ".", LONG, "image.png", "runs")),
        (("train", "mlp", *QUICK), "--name", ("", ".", "..", "a/b", ".x", LONG, "/tmp", "x\0y"[:1] + "/", "first")),
        (("train", "mlp", *QUICK), "--runs-dir", ("image.png", "image.png/x", LONG, "a/" + LONG, "/proc/nope/x")),
        (("tune", "mlp"), "--only", ("nope", "")), (("probe", "first"), "--neighbors", (*numbers, "0")),
        (("probe", "first"), "--data", ("nope", "image.png", "pydoc", "spirals")),
    ):  # fmt: skip
        for value in wrong:
            yield case(*command, f"{flag}={value}")
    for arguments in (
        ("nope",), ("train", "mlp", "softmax"), ("train", "mlp", "--nope"), ("test",), ("predict", "first"), ("export", "first"),
        ("data", "nope"), ("data", "show"), ("picture", "confusion"), ("picture", "curves"), ("report",), ("list", "a", "b"),
        ("train", "--resume", "first", "--name", "x"), ("train", "mlp", "--resume", "text"), ("train", "--set"), ("--plugin",),
        ("report", "first", "first"), ("sample", "first"), ("chat", "first", "image.png"), ("predict", "text", "image.png"),
        ("export", "text", "--to", "onnx"), ("serve", "text"), ("test", "text", "--csv", "x.csv"), ("autopsy", "first"),
        ("sample", "text", "--greedy", "--samples", "3"), ("sample", "text", "--greedy", "--top-k", "3"),
        ("picture", "templates", "text"), ("picture", "cells", "first"), ("picture", "path", "first"),
        ("picture", "attention", "first"), ("picture", "captions", "first"), ("picture", "confusion", "first", "text"),
        ("check", "mlp", "--gradients", "--set", "model.dropuot=0"), ("check", "digits", "--gradients"),
        ("test", "first", "--data", "spirals"), ("test", "first", "--set", "recipe.lr=1"), ("data", "advise", "spirals"),
        ("train", "--resume", "first", "--set", "recipe.lr=0.4"), ("train", "mlp", "--data", "spirals", "--set", "data.size=5"),
        ("predict", "first", "image.png", "--weights", "x"), ("search", "mlp", "--show", "--over", "recipe.lr=log:1..2"),
        ("export", "first", "--to", "onnx", "--checkpoint", "nope"), ("train", "resnet20", "--data", "spirals"),
        ("train", "char-lstm", "--data", "digits"), ("finetune", "nope:resnet18"), ("finetune", "torchvision:nope"),
        ("finetune", "timm:nope"), ("finetune", "timm:"), ("test", "torchvision:nope"), ("show", "timm:nope"),
    ):  # fmt: skip
        yield Case(arguments)


OUTPUTS = (
    ("data", "preview", "digits", "-o", "{}.png"), ("tune", "mlp", "--only", "lr", "-o", "{}.png"),
    ("picture", "confusion", "first", "-o", "{}.png"), ("picture", "gradient-flow", "-o", "{}.png"),
    ("report", "first", "-o", "{}.html"),
    ("test", "first", "--csv", "{}.csv"), ("predict", "first", "image.png", "-o", "{}.csv"),
    ("embed", "first", "image.png", "-o", "{}.npz"),
    ("export", "first", "--to", "safetensors", "-o", "{}.safetensors"), ("export", "first", "--to", "hub", "-o", "{}"),
    ("search", "mlp", "--over", "recipe.lr=log:1e-4..1e-1", "--wandb-sweep", "{}.yaml"),
)  # fmt: skip


def outputs() -> Iterator[Case]:
    for command in OUTPUTS:
        for place in (LONG, "made/" + LONG, "image.png/x", "/proc/nope/x", "/dev/null/x"):
            yield Case(tuple(word.replace("{}", place) for word in command))
        if "{}." in command[-1]:
            suffix = command[-1].partition("}")[2]
            yield Case((*command[:-1], "folder" + suffix), prepare=lambda suffix=suffix: Path(f"folder{suffix}").mkdir())
            if command[0] not in ("search", "test"):  # which write any name
                yield Case((*command[:-1], "image.nope"))


def damage(path: str, number: int) -> None:
    """Truncate a file, flip bits of it, or replace it: the same way for each number."""
    file, chance = Path(path), random.Random(number)
    content = bytearray(file.read_bytes())
    file.unlink()  # two names of one file are two files
    how = number % 3
    if how == 0:
        content = content[: chance.randrange(len(content))]
    elif how == 1:
        for _ in range(chance.choice((1, 20))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        others = (
            "",
            "\0",
            "\xff\xfe",
            "[[[",
            "5",
            "null",
            "{}",
            "- a\n",
            "a: &a [*a]",
            "\x1f\x8b\x08",
            "PK\x03\x04",
            "x: x" * 99,
        )
        content = bytearray(chance.choice(others).encode("latin-1"))
    file.write_bytes(content)


def damaged() -> Iterator[Case]:
    files = {
        "runs/first/run.yaml": (("test", "first"), ("report", "first", "--no-samples"), ("train", "--resume", "first"),
                                ("train", "--config", "runs/first/run.yaml", "--name", "again", *QUICK)),
        "runs/first/checkpoints/best.ckpt": (("test", "first"), ("predict", "first", "image.png"),
                                             ("export", "first", "--to", "hub")),
        "runs/first/checkpoints/last.ckpt": (("train", "--resume", "first"), ("test", "first", "--checkpoint", "last")),
        "runs/first/metrics.jsonl": (("picture", "curves", "first"), ("watch", "first", "--json"),
                                     ("report", "first", "--no-samples")),
        "runs/first/monitors.jsonl": (("report", "first", "--no-samples"), ("watch", "first")),
        "runs/first/environment.json": (("report", "first", "--no-samples"),),
        "shipped.safetensors": (("test", "shipped.safetensors"), ("predict", "shipped.safetensors", "image.png"),
                                ("finetune", "shipped.safetensors", *QUICK)),
        "hub/config.json": (("test", "hub"),),
        "image.png": (("predict", "first", "image.png"), ("picture", "saliency", "first", "image.png")),
    }  # fmt: skip
    number = 0
    for path, commands in files.items():
        for command in commands:
            for _ in range(20 if path.endswith((".ckpt", ".yaml", ".safetensors")) else 9):
                number += 1
                # what is damaged may be unused, or be read as far as it goes
                yield case(*command, prepare=lambda path=path, number=number: damage(path, number), codes=(0, 2))


def folders() -> Iterator[Case]:
    def make(classes: Iterable[str], content: bytes | None) -> None:
        for name in classes:
            Path("photos", name).mkdir(parents=True)
            if content is not None:
                for number in range(3):
                    Path("photos", name, f"{number}.png").write_bytes(content)

    broken = {
        "missing": lambda: None,
        "file": lambda: Path("photos").write_text("x"),
        "empty": lambda: Path("photos").mkdir(),
        "no images": lambda: make("ab", None),
        "no pictures": lambda: make("ab", b"not a picture"),
        "one class": lambda: make("a", Path("image.png").read_bytes()),
        "truncated": lambda: make("ab", Path("image.png").read_bytes()[:60]),
        "loop": lambda: (Path("photos").mkdir(), Path("photos/a").symlink_to("../photos")),
        "dangling": lambda: Path("photos").symlink_to("nowhere"),
    }
    root = ("--set", "data.root=photos")
    for prepare in broken.values():
        for command in (
            ("train", "softmax", "--data", "photos/", *QUICK), ("data", "show", "folder", "--measure", *root),
            ("data", "preview", "folder", *root), ("data", "advise", "folder", *root), ("predict", "first", "photos"),
        ):  # fmt: skip
            fine = command[0] == "predict" and prepare is broken["one class"]
            fine = fine or (prepare is broken["one class"] and command[1] in ("show", "preview", "advise"))
            if not fine:
                yield case(*command, prepare=prepare)


PLUGIN = '''from zoo import register_model
from zoo.models.softmax import Linear
@register_model("mine", task="classification", data="digits"{keywords})
class {name}(Linear):
    """Mine."""
{body}
'''


def plugins() -> Iterator[Case]:
    def write(text: str, keywords: str = "", name: str = "Mine", body: str = "") -> Callable[[], object]:
        written = text.format(keywords=keywords, name=name, body=body) if text is PLUGIN else text
        return lambda: Path("mine.py").write_bytes(written.encode("latin-1"))

    unread = (
        "", "x = 1", "def broken(:", "\xff", "\0", "import nope\n", "(" * 5000, "x = " + "-" * 100_000 + "1",
        *("from zoo import register_model\n@register_model(" + text + ")\nclass A: ..." for text in (
            "", "5", "'x'", "'x', task=5", "'../x', task='t'", "'x y', task='t'", "'x', task='t', tags=None", "'', task='t'",
            "'x', task='t', recipe=5", "'x', task='t', tiny=[1]", "'x', task='t', summary=5", "'x', task='t', **5",
        )),
    )  # fmt: skip
    for text in unread:
        yield case("--plugin", "mine.py", "list", prepare=write(text))
    for keywords, name, body in (
        ("", "Mine", "    raise RuntimeError('no luck')"), ("", "Mine", "    import sys; sys.exit(0)"),
        (", tags={1: 2}[3]", "Mine", ""), ("", "Mine", "    import nope_nope"), (", x={[]: 1}", "Mine", ""),
        (", depth=3", "Mine", "    def __init__(self, spec): ..."),
        ("", "Mine", "    def f(self): return f()\n    x = (lambda g: g(g))(lambda g: g(g))"),
    ):  # fmt: skip
        for command in (("train", "mine", *QUICK), ("tune", "mine")):
            yield case("--plugin", "mine.py", *command, prepare=write(PLUGIN, keywords, name, body))
    for path in ("nope.py", ".", "", LONG, "image.png", "runs/first/run.yaml", "~nobody/x.py"):
        yield case("--plugin", path, "list")


def places() -> Iterator[Case]:
    for variables in (
        {"RANK": "x"}, {"LOCAL_RANK": "-1"}, {"WORLD_SIZE": "1.5"}, {"ZOO_RUNS": "image.png"}, {"ZOO_RUNS": LONG},
        {"ZOO_RUNS": "/proc/nope"}, {"SLURM_PROCID": "a"}, {"MASTER_PORT": "port"},
    ):  # fmt: skip
        yield case("train", "softmax", *QUICK, **variables)
    yield case("data", "fetch", "mnist", "--set", "data.root=new/folder")  # no network
    yield case("data", "fetch", "cifar10")
    yield case("train", "mlp", "--data", "mnist", *QUICK)
    yield case("train", "softmax", *QUICK, prepare=lambda: (shutil.rmtree("runs"), Path("runs").write_text("in the way")))


GROUPS = {
    group.__name__: group
    for group in (names, settings, options, too_large, after_the_start, flags, outputs, damaged, folders, plugins, places)
}


# ---------------------------------------------------------------------------------------------- the driver


def test_there_are_enough() -> None:
    counts = {name: len(list(group())) for name, group in GROUPS.items()}
    assert sum(counts.values()) >= 500, counts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two tiny runs, an image, and what was exported of one of them."""
    import zoo

    place = tmp_path_factory.mktemp("world") / "work"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("ZOO_HOME", str(place.parent / "cache"))
        few = {"trainer.limit_train_batches": 2, "trainer.limit_val_batches": 1, "trainer.limit_test_batches": 1}
        first = zoo.train("softmax", epochs=1, settings=few, name="first", progress=False)
        zoo.train("char-lstm", epochs=1, settings={**few, "model.hidden_size": 8}, name="text", progress=False)
        first.export("safetensors", "shipped.safetensors")
        first.export("hub", "hub")
        Image.effect_noise((20, 20), 50).save("image.png")
    return place


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file; folders and links by their names."""
    found = {}
    for place, folders_, files in os.walk(folder):
        for name in [*folders_, *files]:
            status = os.lstat(path := os.path.join(place, name))
            found[path] = (0, 0) if name in folders_ else (status.st_size, status.st_mtime_ns)
    return found


OF_THE_PROCESS = ("torchinductor", "wandb-")  # temporary folders of what timm imports


class Hangs(BaseException):
    """A command takes too long."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise Hangs

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def complaint(zoo: Any, tried: Case) -> str:
    """What is wrong with how a command ended, in one line; empty where it ended well."""
    before = contents(Path())
    try:
        with limited(SECONDS):
            answer = zoo(*tried.arguments)
    except Hangs:
        return f"takes more than {SECONDS} seconds"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"[:300]
    lines = answer.err.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    if answer.code not in tried.codes:
        return f"exit code {answer.code}: {answer.err[-200:]!r}"
    if answer.code == 2 and (len(errors) != 1 or answer.out or not all(line.startswith(NOTHING) for line in lines)):
        return f"not one line: {answer.err[-300:]!r} {answer.out[-100:]!r}"
    if "Traceback" in answer.err:
        return f"a traceback is printed: {answer.err[-200:]!r}"
    left = {path for path in contents(Path()).keys() ^ before.keys() if ".lock" not in path}
    changed = {path for path, status in contents(Path()).items() if before.get(path, status) != status}
    if answer.code == 2 and left | changed:
        return f"leaves or changes {sorted(left | changed)}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_each_is_one_line_and_leaves_nothing(
    zoo, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("ZOO_HOME", str(world.parent / "cache"))
    fallen = []
    environment, handlers = dict(os.environ), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, tried in enumerate(GROUPS[group]()):
        place = tmp_path / f"{number}"
        shutil.copytree(world, place)
        monkeypatch.chdir(place)
        tried.prepare()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in tried.variables.items():
                patch.setenv(name, value)
            if reason := complaint(zoo, tried):
                fallen.append(f"{tried}: {reason}")
        for path in temporary.iterdir():
            if not any(name in path.name for name in OF_THE_PROCESS):
                fallen.append(f"{tried}: leaves the temporary file {path.name}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(place)
    monkeypatch.chdir(world)
    good = zoo("test", "first", "--json")
    assert good.code == 0 and not good.err and '"test/accuracy"' in good.out, "the process is harmed"
    assert dict(os.environ) == environment and handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert torch.get_default_dtype() == torch.float32 and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert not fallen, f"{len(fallen)} of {number + 1}:\n" + "\n".join(fallen)
