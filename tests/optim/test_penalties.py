"""Penalties are the formulas in numpy, are recorded apart from the loss, and are not the decay of AdamW."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.config.recipe import Recipe
from zoo.optim.optimizers import build_optimizer
from zoo.optim.parameter_groups import decay_groups
from zoo.optim.penalties import penalty

SPEC = zoo.ImageSpec(1, 3, 3, classes=("a", "b"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)).double()


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0), (0, 0.2), (0.3, 0.2)])
@pytest.mark.parametrize("norms_too", [False, True])
def test_value_and_gradient_are_those_of_the_formula(l1: float, l2: float, norms_too: bool) -> None:
    net = network()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    penalty(net.parameters(), Recipe(l1=l1, l2=l2, decay_norms_and_biases=norms_too)).backward()
    expected = 0.0
    for name, parameter in net.named_parameters():
        w = parameter.detach().numpy()
        if norms_too or name in ("0.weight", "3.weight"):
            expected += l1 * np.abs(w).sum() + l2 / 2 * (w**2).sum()
            np.testing.assert_allclose(parameter.grad.numpy(), l1 * np.sign(w) + l2 * w)
        else:
            assert parameter.grad is None
    value = penalty(net.parameters(), Recipe(l1=l1, l2=l2, decay_norms_and_biases=norms_too))
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)


def test_without_penalty_there_is_nothing_to_add() -> None:
    assert penalty(network().parameters(), Recipe(weight_decay=0.1)) is None


def test_frozen_weights_are_left_out() -> None:
    net = network()
    net[0].requires_grad_(False)
    value = penalty(net.parameters(), Recipe(l2=2.0))
    assert float(value.detach()) == pytest.approx(float(net[3].weight.detach().square().sum()))


def after_steps(steps: int = 5, **recipe) -> torch.Tensor:
    """The weights of a linear model after some steps of its own training."""
    recipe = Recipe(lr=0.05, schedule="constant", **recipe)
    task = zoo.create_model("softmax", SPEC, recipe).double()
    nn.init.normal_(task.linear.weight, generator=torch.Generator().manual_seed(0))
    optimizer = build_optimizer(decay_groups(task.parameters(), recipe), recipe, recipe.lr)
    for step in range(steps):
        optimizer.zero_grad()
        task.training_step(task.example_batch(16, step), step).backward()
        optimizer.step()
    return task.linear.weight.detach()


@pytest.mark.parametrize(
    "settings", [{"optimizer": "sgd", "optimizer_args": {"momentum": 0.9}}, {"optimizer": "adam"}, {"optimizer": "rmsprop"}]
)
def test_l2_in_the_loss_is_weight_decay_where_decay_is_added_to_the_gradient(settings: dict) -> None:
    torch.testing.assert_close(after_steps(l2=0.3, **settings), after_steps(weight_decay=0.3, **settings))
    assert not torch.allclose(after_steps(l2=0.3, **settings), after_steps(**settings))


def test_decoupled_decay_is_not_l2() -> None:
    plain, l2, decoupled = (
        after_steps(steps=1, optimizer="adamw", **extra) for extra in ({}, {"l2": 0.3}, {"weight_decay": 0.3})
    )
    start = after_steps(steps=0)
    # Loshchilov and Hutter 2017, algorithm 2: the weights shrink by lr * decay beside the step of Adam ...
    torch.testing.assert_close(decoupled, plain - 0.05 * 0.3 * start)
    # ... while L2 is lost in Adam's scaling: the first step is lr * sign(gradient) whatever its size
    torch.testing.assert_close((l2 - start).abs(), torch.full_like(start, 0.05), rtol=1e-3, atol=0)


def test_loss_and_penalty_are_logged_apart(zoo) -> None:
    settings = ("--epochs", "2", "--set", "recipe.schedule=constant", "--set", "recipe.lr=1e-4", "--set", "recipe.weight_decay=0")
    assert zoo("train", "mlp", "--name", "plain", *settings).code == 0
    assert zoo("train", "mlp", "--name", "penalized", *settings, "--set", "recipe.l1=1e-3", "--set", "recipe.l2=1e-2").code == 0
    plain, penalized = (
        [
            record
            for record in map(json.loads, Path(f"runs/{name}/metrics.jsonl").read_text().splitlines())
            if "train/loss" in record
        ]
        for name in ("plain", "penalized")
    )
    assert all("train/penalty" not in record for record in plain)
    # of the initial weights: uniform up to 1 / sqrt(fan in), so E|w| is half of that and E w^2 a third of its square
    layers = [(64, 512), (512, 256), (256, 10)]
    expected = sum(i * o * (1e-3 / 2 / i**0.5 + 1e-2 / 2 / 3 / i) for i, o in layers)
    assert penalized[0]["train/penalty"] == pytest.approx(expected, rel=0.05)
    assert penalized[0]["train/loss"] == pytest.approx(plain[0]["train/loss"], rel=0.05)
