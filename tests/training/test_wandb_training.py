"""Whole trainings that W&B tracks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.wandb_records import history, metric_names, panels, run_record, tables

pytestmark = pytest.mark.usefixtures("own_wandb")


def test_a_whole_training_leaves_config_history_summary_and_table_offline(zoo):
    quick = ["--epochs", "2", "--set", "trainer.accelerator=cpu"]
    answer = zoo("train", "softmax", *quick, "--wandb", "offline", "--name", "seen", "--set", "wandb.tags=[a,b]")
    assert answer.code == 0, answer.err
    folder = Path("runs/seen")
    config = {item.key: json.loads(item.value_json) for item in run_record(folder).config.update}
    assert config["model"] == {"name": "softmax"} and config["recipe"]["epochs"] == 2
    assert config["environment"]["parameters"] == 64 * 10 + 10 and "torch" in config["environment"]["versions"]
    assert list(run_record(folder).tags) == ["a", "b"]
    own = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    theirs = history(folder)
    for record in own:
        expected = {key: value for key, value in record.items() if key.startswith(("train/", "val/"))}
        assert any(expected.items() <= row.items() for row in theirs)
    found, charts = tables(folder), panels(folder)
    assert len(found["val/samples"]) == 16
    assert [row["layer"] for row in found["layers"]] == ["linear"] and found["layers"][0]["type"] == "Linear"
    assert [row["parameter"] for row in found["parameters"]] == ["linear.weight", "linear.bias"]
    assert set(charts) == {"depth/spread", "depth/updates", "test/confusion"}
    pairs = {(row["Actual"], row["Predicted"]): row["nPredictions"] for row in found["test/confusion_table"]}
    right = sum(pairs[name, name] for name in map(str, range(10)))
    assert len(metric_names(folder)) < 60
    assert len(pairs) == 100 and right / sum(pairs.values()) == pytest.approx(own[-1]["test/accuracy"])
    assert {key for key in own[-1] if not key.startswith("test/")} == {"step", "epoch", "time"}, "a guest changes no record"
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["bestiary"]["trackers"] == {"wandb": run_record(folder).run_id}


def test_a_resumed_training_goes_on_in_the_same_wandb_run(zoo, monkeypatch):
    from zoo.core.signals import stop
    from zoo.training.saving import Checkpoints

    save = Checkpoints.save

    def stop_after_the_first(self, trainer, best=False):
        save(self, trainer, best)
        stop.requested = True

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_the_first)
        answer = zoo("train", "softmax", "--epochs", "2", "--wandb", "offline", "--name", "seen")
    assert answer.code == 130 and "zoo train --resume seen" in answer.err
    first = run_record(Path("runs/seen")).run_id
    (Path("runs/seen") / "wandb").rename("former")
    assert zoo("train", "--resume", "seen").code == 0
    assert run_record(Path("runs/seen")).run_id == first
