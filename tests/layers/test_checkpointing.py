"""Gradient checkpointing: the same bits as without, from fewer bytes that are kept for the backward pass."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import zoo as bestiary
from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.errors import UserError
from zoo.core.json_lines import read_json_lines
from zoo.layers.checkpointing import checkpoint_blocks, find_blocks
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.training import engine

SPEC = ImageSpec(3, 32, 32, classes=tuple("0123456789"))
MODELS = {
    "resnet20": {"depth": 14, "width": 4, "drop_path_rate": 0.5, "dropout": 0.2},
    "vit": {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "dropout": 0.2},
    "vgg11": {"width": 4, "dropout": 0.2},
    "resnet18": {"depth": 10, "drop_path_rate": 0.5},
    "efficientnet-lite0": {"network": "test_efficientnet", "drop_path_rate": 0.5},
    "timm": {"network": "test_convnext"},
}


def steps(task: nn.Module) -> tuple[dict[str, Any], int]:
    """The state after three steps, and the bytes of the activations that the last kept."""
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9)
    weights = {parameter.data_ptr() for parameter in task.parameters()}
    task.train()
    for seed in range(3):
        kept: dict[int, int] = {}

        def keep(value: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            if value.data_ptr() not in weights:
                kept[value.data_ptr()] = value.nbytes
            return value

        torch.manual_seed(seed)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = task.training_step(task.example_batch(8, seed), 0)
        total = sum(kept.values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return task.state_dict(), total


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_buffers_are_the_same_to_the_bit_and_fewer_bytes_are_kept(name: str) -> None:
    torch.manual_seed(0)
    task = bestiary.create_model(name, SPEC, **MODELS[name])
    lean = copy.deepcopy(task)
    assert checkpoint_blocks(lean) > 1
    lean = copy.deepcopy(lean)  # as for an autopsy: the copy must run its own blocks again
    (expected, bytes_of_all), (state, bytes_of_inputs) = steps(task), steps(lean)
    assert expected.keys() == state.keys()
    for key, value in expected.items():
        assert torch.equal(value, state[key]), key
    assert bytes_of_inputs < 0.75 * bytes_of_all


def test_blocks_are_those_within_stages_and_layers_alone_are_none() -> None:
    swin = bestiary.create_model("torchvision", SPEC, network="swin_t")
    assert {type(block).__name__ for block in find_blocks(swin)} >= {"SwinTransformerBlock"}
    lite = bestiary.create_model("efficientnet-lite0", SPEC, network="test_efficientnet")
    assert all(type(block).__name__ != "Sequential" for block in find_blocks(lite))
    assert not list(find_blocks(bestiary.create_model("softmax", SPEC)))


def train(name: str, *settings: str) -> engine.TrainResult:
    limits = ["trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "trainer.test=false", "recipe.epochs=1"]
    texts = ["model.depth=8", "model.width=4", "model.drop_path_rate=0.3", "trainer.monitor_every_n_steps=1", *limits, *settings]
    run = resolve(scan(), "resnet20", {}, [parse_setting(text) for text in ["trainer.accelerator=cpu", *texts]])
    return engine.train(scan(), run, name, progress=False)


def test_a_training_has_the_same_weights_and_the_monitors_count_each_activation_once() -> None:
    plain, lean = train("plain"), train("lean", "recipe.gradient_checkpointing=true")
    for name, value in plain.task.state_dict().items():
        assert torch.equal(value, lean.task.state_dict()[name]), name
    records = [
        [
            json.dumps({key: value for key, value in record.items() if key != "seconds"})
            for record in read_json_lines(outcome.folder.monitors_file)
            if record["kind"] in ("activations", "gradients")
        ]
        for outcome in (plain, lean)
    ]
    assert len(records[0]) == 8 and records[0] == records[1]
    resumed = bestiary.load("plain").resume(settings={"recipe.gradient_checkpointing": True}, progress=False)
    assert resumed.outcome.was_finished, "as no bit depends on it, it may change"


@pytest.mark.slow
def test_an_autopsy_finds_the_same_operation() -> None:
    found = []
    for name, settings in (("plain", []), ("lean", ["recipe.gradient_checkpointing=true"])):
        with pytest.raises(UserError) as error:
            train(name, "recipe.lr=1e20", "trainer.limit_train_batches=10", *settings)
        found.append(str(error.value).replace(name, "run"))
    assert "in stage" in found[0] and found[0] == found[1]


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("softmax", [], "has no sequence of blocks to run again: omit it"),
        ("knn", [], "trains in one pass without an optimizer: omit it"),
        ("resnet20", ["recipe.compile=true"], "torch.compile chooses itself what to compute again: omit recipe.compile"),
    ],
)
def test_what_has_nothing_to_run_again_is_refused_in_one_line(zoo, workplace, model, settings, words) -> None:
    arguments = [word for setting in settings for word in ("--set", setting)]
    answer = zoo("train", model, "--set", "recipe.gradient_checkpointing=true", *arguments)
    assert answer.is_one_line_error("recipe.gradient_checkpointing=", words)
    assert not list(workplace.glob("runs/*"))
