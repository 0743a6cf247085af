"""What a run keeps of its monitors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zoo.callbacks.gradient_monitor import GradientMonitor
from zoo.core.json_lines import read_json_lines

QUICK = ["--set", "trainer.limit_train_batches=6", "--epochs", "2"]


def test_a_run_keeps_records_of_every_kind_and_tells_what_was_found(zoo) -> None:
    answer = zoo("train", "mlp", "--name", "hot", "--set", "recipe.lr=30", "--set", "recipe.optimizer=sgd", "--epochs", "3")
    records = list(read_json_lines(Path("runs/hot/monitors.jsonl")))
    kinds = {record["kind"] for record in records}
    assert answer.code == 0 and {"activations", "gradients", "throughput", "finding"} <= kinds and "Likely cause: " in answer.out
    assert {record["step"] for record in records if record["kind"] == "gradients"} <= {0, 1, 2, 4, 8, 16, 29}


@pytest.mark.slow
def test_another_optimizer_does_not_inherit_the_weight_decay(zoo) -> None:
    settings = ["--set", "recipe.optimizer=sgd", "--set", "recipe.lr=0.1", "--set", "trainer.accelerator=cpu"]
    answer = zoo("train", "mlp", "--name", "sgd", "--epochs", "20", *settings)
    assert answer.code == 0 and "error" not in answer.out + answer.err
    assert json.loads(zoo("test", "sgd", "--json").out)["test/accuracy"] > 0.94
    answer = zoo("train", "mlp", "--name", "decayed", "--epochs", "3", *settings, "--set", "recipe.weight_decay=0.3")
    findings = [line for line in answer.out.splitlines() if "Likely cause" in line]
    assert findings[0].startswith("error: weight-decay-too-high") and findings[0].endswith("Try: --set recipe.weight_decay=0")
    assert not any(name in answer.out for name in ("not-learning", "vanishing", "learning-rate-too-high"))
    answer = zoo("diagnose", "mlp", *settings, "--set", "recipe.weight_decay=0.3")
    assert answer.code == 1 and answer.out.splitlines()[-1].endswith("--set recipe.weight_decay=0")


def test_what_is_counted_over_a_training_goes_on_in_a_resume(zoo) -> None:
    settings = ["--set", "recipe.gradient_clip_val=1e-9", "--set", "trainer.monitor_every_n_steps=1"]
    assert zoo("train", "mlp", "--name", "whole", *settings, *QUICK).code == 0
    checkpoint = torch.load("runs/whole/checkpoints/last.ckpt", weights_only=True)
    monitor = GradientMonitor()
    monitor.load_state_dict(checkpoint["callbacks"]["GradientMonitor"])
    assert monitor.state_dict() == checkpoint["callbacks"]["GradientMonitor"]
    assert monitor.state_dict()["records"] == monitor.state_dict()["clipped"] >= 11
    assert len(checkpoint["callbacks"]["Diagnosis"]["losses"]) == 2


def test_monitors_are_off_where_that_is_said(zoo) -> None:
    assert zoo("train", "softmax", "--name", "quiet", *QUICK, "--set", "trainer.monitor_every_n_steps=0").code == 0
    assert not Path("runs/quiet/monitors.jsonl").exists()
