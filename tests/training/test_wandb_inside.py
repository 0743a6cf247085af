"""What W&B is sent of the inside of a network: few metrics, and tables and charts of the rest."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.wandb_tracking import classified, monitored, tracker, warnings_of
from tests.wandb_records import history, metric_names, panels, records, summary, tables
from zoo.callbacks import findings
from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.training.building import build_task, open_data

pytestmark = pytest.mark.usefixtures("own_wandb")

LAYERS = {
    "conv": {"type": "Conv2d", "mean": 0.5, "signal": 2.0, "dead": None, "saturated": None, "rank": 7.0, "histogram": [0] * 65},
    "relu": {"type": "ReLU", "mean": 0.5, "dead": 0.25, "histogram": [0] * 33 + [7] + [0] * 31},
    "relu2": {"type": "ReLU", "mean": 0.5, "dead": 0.75, "histogram": [0] * 65},
    "head": {"type": "Linear", "mean": 0.5, "signal": float("nan"), "dead": None, "rank": 3.0, "histogram": [0] * 65},
}


PARAMETERS = {
    "conv.weight": {"norm": 3.0, "update_ratio": 0.01, "zero": 0.5, "histogram": [1] * 65},
    "conv.bias": {"norm": 1.0, "update_ratio": 1e-9, "zero": 0.0, "histogram": [1] * 65},
    "head.weight": {"norm": 2.0, "update_ratio": 0.001, "zero": 0.0, "histogram": [1] * 65},
}


def log_inside(folder: Path, **settings: Any) -> dict[str, Any]:
    """What the history holds of two records and a finding, by name."""
    log = tracker(folder, **settings)
    log.open()
    log.log_record({"kind": "activations", "step": 4, "epoch": 0, "seconds": 0.1, "layers": LAYERS})
    log.log_record({"kind": "gradients", "step": 4, "epoch": 0, "seconds": 0.1, "norm": 3.5, "parameters": PARAMETERS})
    finding = {"kind": "finding", "step": 4, "epoch": 0, "name": "dead-units", "severity": "warning", "where": "relu2"}
    log.log_record({**finding, "evidence": "most are zero"})
    log.close()
    return {key: value for row in history(folder) for key, value in row.items() if not key.startswith("_")}


def test_of_the_records_of_monitors_totals_and_the_worst_layers_are_sent(tmp_path):
    sent = log_inside(tmp_path)
    assert str(sent.pop("worst/signal_min")) == str(sent.pop("worst/signal_max")) == "nan"  # worse than any other
    assert sent == {
        "trainer/step": 4, "activations/seconds": 0.1, "gradients/seconds": 0.1, "gradients/norm": 3.5,
        "worst/dead_units": 0.75, "worst/rank": 3.0, "worst/gradient_norm_min": 1.0, "worst/gradient_norm_max": 3.0,
        "worst/update_ratio_min": 0.001, "worst/update_ratio_max": 0.01, "worst/zero_gradient": 0.5,
    }  # fmt: skip
    told = summary(tmp_path)
    assert (told["worst/dead_units/where"], told["worst/signal_max/where"]) == ("relu2", "head")
    assert (told["worst/update_ratio_min/where"], told["worst/gradient_norm_min/where"]) == ("head.weight", "conv.bias")
    assert told["finding/dead-units"] == "relu2: most are zero"


def test_chosen_layers_are_sent_in_full_when_asked_for(tmp_path):
    sent = log_inside(tmp_path, inside="full", layers=("relu", "head*"))
    assert (sent["activations/relu/mean"], sent["gradients/head.weight/norm"]) == (0.5, 2.0)
    assert "activations/relu/saturated" not in sent
    assert sum(key.startswith("activations/relu/histogram") for key in sent) > 1
    assert {key.split("/")[1] for key in sent if key.count("/") > 1} == {"relu", "head", "head.weight"}
    assert sent["worst/gradient_norm_max"] == 3.0, "the worst of all, chosen or not"


def test_a_glob_that_matches_nothing_is_named(tmp_path, caplog):
    log = tracker(tmp_path, inside="full", layers=("head.*", "haed*"))
    log.open()
    log.log_record({"kind": "gradients", "step": 4, "epoch": 0, "seconds": 0.1, "norm": 3.5, "parameters": PARAMETERS})
    log.log_monitors(tmp_path / "monitors.jsonl")
    log.close()
    (warning,) = warnings_of(caplog)
    assert warning == "wandb.layers: no layer or parameter that was recorded matches haed*"


def test_nothing_from_inside_is_sent_when_it_is_off(tmp_path):
    assert log_inside(tmp_path, inside="off") == {}
    assert not [key for key in summary(tmp_path) if not key.startswith("_")]


def layer_records(task: torch.nn.Module) -> list[dict[str, Any]]:
    """Records of all monitors, as a training of this network gives them, and a finding of each kind."""
    layers = [name for name, module in task.named_modules() if name and (not list(module.children()) or module._parameters)]
    values = dict.fromkeys(("mean", "std", "min", "max", "zero", "signal", "dead", "saturated", "rank"), 0.5)
    of_parameter = dict.fromkeys(("norm", "weight_norm", "update_ratio", "cosine", "zero"), 0.5)
    at = {"step": 0, "epoch": 0, "seconds": 0.1}
    totals = dict.fromkeys(("norm", "clipped", "noise_scale", "decay"), 0.5)
    counted = {"histogram": [1] * 65}
    rows = {name: {"type": "Linear", **values, **counted, "quantiles": [0.0] * 5, "input": {"mean": 0.5}} for name in layers}
    own = {name: {**of_parameter, **counted} for name, _ in task.named_parameters()}
    source = "".join((Path(findings.__file__).parent / name).read_text() for name in ("findings.py", "diagnosis.py"))
    kinds = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)", *"(?:error|warning)"', source))
    assert len(kinds) >= 20
    told = [{"kind": "finding", **at, "name": name, "severity": "error", "where": "x", "evidence": "y"} for name in kinds]
    return [
        {"kind": "activations", **at, "layers": rows},
        {"kind": "gradients", **at, **totals, "without": [], "parameters": own},
        {"kind": "throughput", **at, **dict.fromkeys(("steps_per_second", "data_loading", "memory"), 0.5)},
        *told,
    ]


REGISTRY = scan()


TASKS = sorted({entry.task for entry in REGISTRY.models.values()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_any_model_of_the_registry_has_under_100_metric_names(tmp_path, kind):
    log, most = tracker(tmp_path), 0
    log.open()
    for name in (name for name, entry in REGISTRY.models.items() if entry.task == kind):
        run = resolve(REGISTRY, name, {}, [])
        with torch.device("meta"):
            task = build_task(REGISTRY, run, open_data(REGISTRY, run).spec)
        shown = {f"{stage}/{metric}": 0.5 for stage in ("train", "val", "test") for metric in task.directions}
        log.log_metrics({**shown, "train/lr": 0.1, "train/loss": 1.0, "train/samples_per_second": 1.0, "epoch": 0}, 0)
        written = layer_records(task)
        most = max(most, sum(len(record.get("layers", ())) + len(record.get("parameters", ())) for record in written))
        for record in written:
            log.log_record(record)
        lines = [record for record in written if record["kind"] != "throughput"]
        (tmp_path / "monitors.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    classes = ["cat", "dog"]
    log.log_monitors(tmp_path / "monitors.jsonl", classes, [[3, 1], [0, 2]])
    log.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
    log.close()
    assert most > 3 and 30 < len(metric_names(tmp_path)) < 100  # of all models of the task together


def test_what_monitors_recorded_becomes_tables_and_charts_by_depth(tmp_path, caplog):
    log = tracker(tmp_path)
    log.open()
    log.log_metrics({"train/loss": 2.0}, 90)
    log.log_monitors(monitored(tmp_path / "monitors.jsonl"), ["cat", "dog"], [[3, 1], [0, 2]])
    log.close()
    found = tables(tmp_path)
    told = [(row["step"], row["severity"], row["name"], row["where"], row["evidence"]) for row in found["findings"]]
    assert told == [(20, "error", "no-gradient", "second", "seen at 20"), (10, "warning", "dead-units", "second", "seen at 10")]
    assert (found["findings"][0]["cause"], found["findings"][0]["try"]) == ("rate", "less")
    first = {
        "place": 0, "layer": "first", "type": "Linear", "mean": 80, "std": 1.0, "signal": 0.5, "dead": None, "saturated": None,
        "rank": 2.5,
    }  # fmt: skip
    assert found["layers"][0] == first and found["layers"][1]["dead"] == 0.5
    names = [(row["place"], row["parameter"], row["update_ratio"]) for row in found["parameters"]]
    assert names == [(0, "first.weight", 0.001), (1, "first.bias", 0.1), (2, "second.weight", 0.0)]
    spread = [tuple(row.values()) for row in found["depth/spread_table"]]
    assert [value for place, _, value in spread if place == 1] == [0, -2, -3, -5, -6, -8], "of nine records six, with both ends"
    assert sorted({line for _, line, _ in spread}) == [f"step {step:02}" for step in (0, 20, 30, 50, 60, 80)]
    updates = [tuple(row.values()) for row in found["depth/updates_table"]]
    assert {(place, round(value, 9)) for place, _, value in updates} == {(0, -3)}, "neither biases nor what did not move"
    assert [tuple(row.values()) for row in found["test/confusion_table"]] == [
        ("cat", "cat", 3), ("cat", "dog", 1), ("dog", "cat", 0), ("dog", "dog", 2),
    ]  # fmt: skip
    charts = panels(tmp_path)
    drawn = {key: chart["panelDefId"] for key, chart in charts.items()}
    assert drawn == {
        "depth/spread": "wandb/lineseries/v0",
        "depth/updates": "wandb/lineseries/v0",
        "test/confusion": "wandb/confusion_matrix/v1",
    }
    for key, chart in charts.items():  # every field of a chart is a column of the table that is sent with it
        assert set(chart["fieldSettings"].values()) <= set(found[f"{key}_table"][0])
        assert f"{key}_table" in json.dumps(chart["userQuery"])
    assert {row["trainer/step"] for row in history(tmp_path)} == {90} and not warnings_of(caplog)
    (artifact,) = [record.artifact for record in records(tmp_path) if record.artifact.type == "monitors"]
    (entry,) = artifact.manifest.contents
    assert (artifact.name, entry.path) == (f"mlp-digits-{log.run_id}-inside", "monitors.jsonl.gz")
    assert gzip.decompress(Path(entry.local_path).read_bytes()) == (tmp_path / "monitors.jsonl").read_bytes()


def test_a_training_without_records_sends_no_tables(tmp_path, caplog):
    log = tracker(tmp_path)
    log.open()
    log.log_monitors(tmp_path / "monitors.jsonl")
    log.close()
    assert not tables(tmp_path) and not panels(tmp_path) and not warnings_of(caplog)


def test_strange_records_are_left_out_and_tables_that_fail_are_one_warning(tmp_path, caplog, monkeypatch):
    (tmp_path / "monitors.jsonl").write_text(
        '{"step": 0, "kind": "activations"}\n{"kind": "gradients", "parameters": {"a": 3}}\n'
    )
    log = tracker(tmp_path)
    log.open()
    log.log_monitors(tmp_path / "monitors.jsonl")
    assert not warnings_of(caplog)

    def fail(monitors):
        raise KeyError("layers")

    monkeypatch.setattr("zoo.training.tracking.wandb_tracker.monitor_tables", fail)
    log.log_monitors(tmp_path / "monitors.jsonl")
    log.close()
    (warning,) = warnings_of(caplog)
    assert "layers" in warning
