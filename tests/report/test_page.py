"""The page and the command that writes it: what stands in it, what is said to be missing, and that it needs nothing else."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.registry.registry import scan
from zoo.report import page as page_module
from zoo.report.page import differing_settings
from zoo.report.samples import take_samples
from zoo.report.subject import facts, read_subject, summarize_metrics
from zoo.training.run_folder import RunFolder

VOID = {"meta", "link", "img", "br"}
PLUGIN = '''
from zoo import register_data


@register_data("nothing", task="classification")
class Nothing:
    """A data set of nothing."""

    def __init__(self, batch_size, seed):
        pass
'''
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


class Page(html.parser.HTMLParser):
    """A page as a reader without a browser sees it: its elements, in order, with their text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # (innermost element, text)
        self.open: list[str] = []
        self.rows: list[list[str]] = []  # of all tables: their cells
        self.feed(file.read_text(encoding="utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", text))
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(text)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())

    def headings(self) -> list[tuple[int, str]]:
        return [(int(tag[1]), text) for tag, text in self.texts if re.fullmatch("h[1-6]", tag)]


@pytest.fixture
def report(zoo):
    """``report("first", "--no-samples")``: the page that the command writes."""

    def call(*arguments: str) -> Page:
        answer = zoo("report", *arguments)
        assert answer.code == 0, answer.err
        file, next_line = answer.out.splitlines()
        assert next_line.startswith("next: zoo ")
        return Page(Path(file.partition(":")[0]))

    return call


@pytest.fixture
def whole(write_run, metrics, monitors, finding):
    """A run with everything but a checkpoint."""
    return write_run("whole", metrics(100), [*monitors(range(0, 100, 10)), finding()])


def assert_sound(page: Page) -> None:
    """One of each landmark, headings without gaps, labels that exist, text beside every picture, nothing from outside."""
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    assert page.all("html")[0] == {"lang": "en"}
    assert all(len(page.all(tag)) == 1 for tag in ("main", "header", "footer", "nav", "h1", "title"))
    levels = [level for level, _ in page.headings()]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        for name in ("href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attributes)
    assert all(link["href"][1:] in ids for link in page.all("a"))
    assert page.all("a")[0]["href"] == "#main"
    assert all(image.get("alt") for image in page.all("img"))
    plots = [attributes for attributes in page.all("div") if attributes.get("class") == "plot"]
    details = len(page.all("details"))
    assert details >= len(plots) and len(page.all("summary")) == details
    items = [attributes["id"] for attributes in page.all("script") if attributes.get("type") == "application/json"]
    assert items == [f"{plot['id']}-data" for plot in plots]
    for tag, text in page.texts:
        if tag == "script" and text.startswith('{"target_id"'):
            json.loads(text)


def test_a_report_tells_everything(report, whole) -> None:
    page = report("whole", "--no-samples")
    assert_sound(page)
    assert (whole.path / "report.html").stat().st_size < 5_000_000
    assert [text for level, text in page.headings() if level == 2] == [
        "Summary", "Findings", "Learning curves", "Predictions", "Activations", "Gradients and updates",
        "Throughput and memory", "Configuration and environment",
    ]  # fmt: skip
    for text in (
        "softmax", "digits", "classification", "650", "1:30",  # summary
        "warning: dead-units", "network.first", "62% of 64 units", "a high rate", "recipe.lr=0.01",  # findings
        "Activation standard deviation", "Dead units", "Input rank", "Global gradient norm", "Update-to-weight ratios",
        "Steps per second", "Data loading time", "Memory",
        "zoo train --config runs/whole/run.yaml --name whole-again", "zoo train softmax --name whole", "batch_size: 128",
        "because of --no-samples",
    ):  # fmt: skip
        assert text in page.text, text
    assert "Saturated units" not in page.text  # not recorded
    (policy,) = [attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes]
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe-eval" not in policy


def test_best_last_and_test_figures_stand_in_a_table(write_run) -> None:
    values = [(0.5, 0.9), (0.9, 0.4), (0.7, 0.6)]
    records = [
        {"step": 10 * n, "epoch": n - 1, "time": 100.0 * n, "val/accuracy": accuracy, "val/loss": loss}
        for n, (accuracy, loss) in enumerate(values, 1)
    ]
    records.append({"step": 30, "epoch": 3, "time": 305.0, "test/accuracy": 0.8})
    subject = read_subject(scan(), write_run("figures", records), "figures")
    assert summarize_metrics(subject) == {"accuracy": ("0.9", "2", "0.7", "0.8"), "loss": ("0.4", "2", "0.6", "–")}
    told = dict(facts(subject))
    assert told["Parameters"] == "650 (65 trained)"
    assert told["Steps"] == "30" and told["Epochs"].startswith("3 of ")
    assert told["Duration (until the last record)"] == "3:25"


def test_what_is_missing_is_said(report, write_run) -> None:
    bare = write_run("bare")
    (bare.path / "environment.json").unlink()
    page = report("bare")
    assert_sound(page)
    for text in ("metrics.jsonl is empty or damaged", "monitors.jsonl is missing", "environment.json is missing",
                 "run bare has no best.ckpt yet", "This run was not monitored"):  # fmt: skip
        assert text in page.text, text


def test_what_is_left_of_a_run_without_its_settings_is_shown(zoo, report, write_run, metrics) -> None:
    folder = write_run("torn", metrics(100))
    folder.run_file.unlink()
    page = report("torn")
    assert_sound(page)
    assert "run.yaml is missing: the model, the data and the settings are unknown" in page.text
    assert "Learning curves" in page.text and "0.75" in page.text and "--config" not in page.text
    folder.metrics_file.unlink()
    (folder.path / "monitors.jsonl").write_text('{"step": 1, "epoch": 0, "kind": "finding"}\n')
    page = report(str(folder.path))
    assert "metrics.jsonl is missing" in page.text and "No problems were detected" in page.text  # not one without a name
    told = zoo("report", "torn", "--no-samples").out
    assert "next: zoo list" in told and "--config" not in told


def test_a_run_of_another_version_is_shown_as_far_as_it_can_be_read(report, write_run, metrics) -> None:
    folder = write_run("later", metrics(100))
    folder.run_file.write_text(folder.run_file.read_text().replace("recipe:", "recipe:\n  foresight: 3"))
    page = report("later")
    assert_sound(page)
    assert "recipe.foresight (extra inputs are not permitted)" in page.text
    assert "foresight: 3" in page.text and "Learning curves" in page.text and "0.75" in page.text


def test_a_run_of_a_plugin_that_is_missing_is_shown(report, write_run, metrics) -> None:
    folder = write_run("foreign", metrics(100))
    folder.run_file.write_text(folder.run_file.read_text().replace("name: softmax", "name: squeezenet"))
    page = report("foreign")
    assert_sound(page)
    assert "The model 'squeezenet' is not registered, perhaps because a plugin is missing" in page.text
    assert "Best values of accuracy are unknown: only the model says" in page.text and "Learning curves" in page.text
    assert ["loss", "0.5", "1", "0.5", "0.6"] in page.rows  # a loss is low in any model


def test_a_comparison_says_in_its_cells_what_is_unknown_without_a_plugin(report, write_run, metrics) -> None:
    write_run("known", metrics(100))
    foreign = write_run("foreign", metrics(100))
    foreign.run_file.write_text(foreign.run_file.read_text().replace("name: softmax", "name: squeezenet"))
    page = report("known", "foreign", "--no-samples")
    table = {row[0]: row[1:5] for row in page.rows[:3]}
    assert table["run"] == ["best val/loss", "test/loss", "best val/accuracy", "test/accuracy"]
    assert table["known"] == ["0.5", "0.6", "0.75", "0.7"] and table["foreign"] == ["0.5", "0.6", "unknown", "0.7"]
    assert "foreign: The model 'squeezenet' is not registered, perhaps because a plugin is missing." in page.text

    file = foreign.path / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "monitor": "val/accuracy", "goal": "max"}))  # as a training does
    settings = foreign.run_file.read_text().replace("plugins: []", "plugins: [gone/network.py]")
    foreign.run_file.write_text(settings)
    page = report("known", "foreign", "--no-samples")
    assert page.rows[2][:5] == ["foreign", "0.5", "0.6", "0.75", "0.7"] and "Best values" not in page.text
    remedy = "pass it from its new place with zoo --plugin NEW/network.py"
    assert f"run foreign needs the plugin gone/network.py, which is missing: {remedy}" in page.text
    assert "gone/network.py" in settings and foreign.run_file.read_text() == settings


def test_a_curve_with_a_peak_is_logarithmic(report, write_run, metrics) -> None:
    records = metrics(100)
    records[0]["train/loss"] = 1e6
    page = report(str(write_run("peak", records).path), "--no-samples")
    assert "because of peaks" in page.text
    (loss,) = [text for tag, text in page.texts if tag == "script" and '"train"' in text and '"val"' in text]
    assert "LogScale" in loss


def test_numbers_that_are_none_are_named(report, write_run, metrics) -> None:
    records = metrics(50)
    records[2]["train/loss"] = float("nan")
    records[3]["train/loss"] = float("inf")
    page = report(str(write_run("diverged", records).path), "--no-samples")
    assert_sound(page)
    assert "train/loss is not finite at step 30" in page.text


def test_nothing_that_a_run_says_is_executed(report, write_run, metrics, monitors, finding) -> None:
    words = dict.fromkeys(("name", "where", "evidence", "cause", "try"), HOSTILE)
    records = [*monitors(range(3), (HOSTILE, "b")), finding(**words), finding(severity=HOSTILE)]
    figures = [{**record, f"val/{HOSTILE}": 0.5, f"train/{HOSTILE}": 0.5} for record in metrics(30)]
    folder = write_run("hostile", figures, records)
    (folder.path / "environment.json").write_text(json.dumps({"command": HOSTILE, HOSTILE: HOSTILE, "device": HOSTILE}))
    folder.run_file.write_text(folder.run_file.read_text() + f'\n"{HOSTILE}": {{"{HOSTILE}": "{HOSTILE}"}}\n')
    page = report("hostile", "--no-samples")
    assert_sound(page)
    assert not any(image["src"] == "x" for image in page.all("img"))
    assert not any("alert(" in text and "{" not in text for tag, text in page.texts if tag == "script")
    assert page.text.count(HOSTILE) > 8


# ------------------------------------------------------------------ several runs


def test_runs_are_compared(report, write_run, metrics, monitors) -> None:
    write_run("first", metrics(100), monitors(range(0, 100, 10)), {"recipe": {"lr": 0.1}})
    second = [{**record, "val/accuracy": 0.875} if "val/accuracy" in record else record for record in metrics(200)]
    write_run("second", second, (), {"recipe": {"lr": 0.2}})
    page = report("first", "second", "--no-samples")
    assert_sound(page)
    assert Path("report.html").is_file()
    assert [text for level, text in page.headings() if level == 2] == ["Comparison", "first", "second"]
    cells = [text for tag, text in page.texts if tag in ("td", "th")]
    place = cells.index("recipe.lr")
    assert cells[place : place + 3] == ["recipe.lr", "0.1", "0.2"]
    assert "recipe.epochs" not in cells  # the same in both
    assert "0.875" in cells and "0.75" in cells
    (loss,) = [text for tag, text in page.texts if tag == "script" and '"first train"' in text and '"second val"' in text
               and '"first val"' in text][:1]  # fmt: skip
    assert json.loads(loss)


def test_a_comparison_leads_to_what_is_wrong(report, write_run, metrics, finding) -> None:
    write_run("sound", metrics(100))
    write_run("broken", metrics(100), [finding(severity="error"), finding(name="other"), finding(name="third")])
    page = report("sound", "broken", "--no-samples")
    cells = [text for tag, text in page.texts if tag in ("td", "th", "a")]
    assert "broken: 1 error, 2 warnings" in cells and "none" in cells and "1 error, 2 warnings" in cells


def test_a_command_that_trains_again_has_the_plugin(zoo, write_run, metrics) -> None:
    Path("mine.py").write_text(PLUGIN)
    folder = write_run("alone", metrics(100))
    assert zoo("--plugin", "mine.py", "report", "alone", "--no-samples").code == 0
    assert "zoo --plugin mine.py train --config runs/alone/run.yaml" in (folder.path / "report.html").read_text()


def test_a_run_that_had_not_finished_is_said_so(report, write_run, metrics) -> None:
    write_run("cut", metrics(100)[:-1])
    page = report("cut", "--no-samples")
    assert "Training had not finished: 1 of" in page.text


def test_runs_that_cannot_be_held_against_each_other_are_told(zoo, report, write_run, metrics) -> None:
    write_run("digits", metrics(100))
    other = write_run("other", metrics(100), (), {"data": {"name": "cifar10"}})
    assert "These runs have different data (digits, cifar10)" in report("digits", "other", "--no-samples").text
    other.run_file.write_text(other.run_file.read_text().replace("name: softmax", "name: captioner"))
    assert "These runs have different tasks (classification, captioning)" in report("digits", "other", "--no-samples").text


def test_settings_that_differ() -> None:
    settings = [{"model": {"depth": 1, "width": 2}}, {"model": {"depth": 3, "width": 2, "norm": "batch"}}, {}]
    assert differing_settings(settings) == [("model.depth", "1", "3", "unknown"), ("model.norm", "–", "batch", "unknown")]
    assert differing_settings([settings[0], settings[0]]) == []


# ------------------------------------------------------------------ size


def test_a_network_of_many_layers_and_a_long_run_stay_small(report, write_run, monitors) -> None:
    layers = tuple(f"network.stage{n // 10}.block{n % 10}.convolution" for n in range(400))
    folder = write_run("deep", (), monitors(range(0, 12), layers))
    page = report("deep", "--no-samples")
    assert (folder.path / "report.html").stat().st_size < 5_000_000
    assert "Showing 300 of 400" in page.text and "Showing 60 of 400" in page.text


def test_history_is_thinned_until_the_page_is_small_enough(whole, monkeypatch) -> None:
    tried = []
    monkeypatch.setattr(page_module, "render", lambda subjects, most: tried.append(most) or "x" * (most * 100))
    monkeypatch.setattr(page_module, "LARGEST", 8000)
    page_module.write_report(scan(), [whole], Path("small.html"), with_samples=False)
    assert tried == [300, 150, 75] and Path("small.html").stat().st_size == 7500


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("whol",), ("no run 'whol'", "'whole'")),
        ((), ("RUN",)),
        (("whole", "whole"), ("twice",)),
        (("whole", "-o", "page.pdf"), ("page.pdf", ".html")),
        (("whole", "-o", "."), (".html",)),
        (("whole", "-o", "runs/whole/run.yaml/page.html"), ("run.yaml is not a folder",)),
        (("runs",), ("runs is not a run",)),
    ],
)
def test_mistakes_are_one_line(zoo, whole, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert zoo("report", *arguments).is_one_line_error(*words)


def test_a_mistyped_run_is_answered_without_torch_or_bokeh(whole) -> None:
    code = (
        "import sys; sys.argv = ['zoo', 'report', 'whol']\n"
        "from zoo.cli import app\n"
        "try: app()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'bokeh', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_that_cannot_be_written_leaves_the_old_one(zoo, whole, monkeypatch) -> None:
    old = whole.path / "report.html"
    old.write_text("old")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.core.download.os.replace", full)
    assert zoo("report", "whole", "--no-samples").is_one_line_error("report.html", "no space left")
    assert old.read_text() == "old" and not list(whole.path.glob(".report*"))


# ------------------------------------------------------------------ networks that speak


def test_a_classifier_shows_pictures_and_its_confusions(zoo, report) -> None:
    assert zoo("train", "softmax", "--epochs", "2", "--name", "short").code == 0
    page = report("short")
    assert_sound(page)
    tested = json.loads(zoo("test", "short", "--json").out)
    right = round(359 * tested["test/accuracy"])
    assert f"The best checkpoint is correct on {right} of 359 test images ({right / 359:.1%})." in page.text
    shown = [attributes for attributes in page.all("img") if attributes["alt"] in "0123456789"]  # others are of histograms
    assert "Histograms of activations" in page.text  # what a training really records
    assert len(shown) == 12 and page.text.count("✗ true") >= 6
    assert (3, "Labels to check") in page.headings() and page.text.count("labeled ") == 12
    samples = take_samples(scan(), RunFolder.find("short"))
    np.testing.assert_array_equal(samples.confusion, tested["confusion"])
    assert [image.probability for image in samples.images[:6]] == sorted(
        (i.probability for i in samples.images[:6]), reverse=True
    )
    assert not any(image.is_correct for image in samples.images[:6])


def test_a_language_model_writes(zoo, report) -> None:
    Path("text.txt").write_text("to be or not to be, that is the question. " * 200)
    small = ("--set", "data.seq_len=16", "--set", "recipe.batch_size=8")
    few = ("--set", "data.root=text.txt", "--set", "trainer.limit_train_batches=2", "--set", "trainer.limit_val_batches=1",
           "--set", "trainer.limit_test_batches=1", "--epochs", "1")  # fmt: skip
    answer = zoo("train", "char-lstm", "--data", "text", *few, *small, "--name", "writer")
    assert answer.code == 0, answer.err
    page = report("writer")
    assert_sound(page)
    assert "temperature 0.7" in page.text and "temperature 1" in page.text
    assert [len(text) for tag, text in page.texts if tag == "pre"][:2] == [400, 400]


def test_points_are_shown_in_their_plane(zoo, report) -> None:
    assert zoo("train", "softmax", "--data", "blobs", "--epochs", "1", "--name", "plane").code == 0
    page = report("plane")
    assert_sound(page)
    assert "Confusion matrix" in page.text and "Labels to check" not in page.text
    assert [image for image in page.all("img") if image["alt"].startswith("Decision regions: test accuracy ")]


def test_data_that_is_gone_is_a_reason(zoo, report, whole) -> None:
    assert zoo("train", "softmax", "--epochs", "1", "--name", "homeless").code == 0
    file = Path("runs/homeless/run.yaml")
    assert file.read_text().count("name: digits") == 1
    # the checkpoint holds the Run as well: data that is not there is as good as data that is gone
    checkpoint = torch.load("runs/homeless/checkpoints/best.ckpt", weights_only=True)
    checkpoint["bestiary"]["run"]["data"] = {"name": "mnist"}
    torch.save(checkpoint, "runs/homeless/checkpoints/best.ckpt")
    page = report("homeless")
    assert_sound(page)
    assert "No samples" in page.text
