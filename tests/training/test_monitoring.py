"""What a run keeps of its monitors."""

from __future__ import annotations

from pathlib import Path

import torch

from zoo.callbacks.gradient_monitor import GradientMonitor
from zoo.core.json_lines import read_json_lines

QUICK = ["--set", "trainer.limit_train_batches=6", "--epochs", "2"]


def test_a_run_keeps_records_of_every_kind_and_tells_what_was_found(zoo) -> None:
    answer = zoo("train", "mlp", "--name", "hot", "--set", "recipe.lr=30", "--set", "recipe.optimizer=sgd", "--epochs", "3")
    records = list(read_json_lines(Path("runs/hot/monitors.jsonl")))
    kinds = {record["kind"] for record in records}
    if answer.code == 0:
        assert kinds == {"activations", "gradients", "pace", "finding"} and "Likely cause: " in answer.out
    assert {record["step"] for record in records if record["kind"] == "gradients"} <= {0, 1, 2, 4, 8, 16, 29}


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
