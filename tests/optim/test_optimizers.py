"""Optimizers held against the textbook's update rules in numpy, double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.optim.optimizers import build_optimizer, decay_groups, scaled_lr
from zoo.registry.registry import scan

LR, DECAY, STEPS = 0.05, 0.1, 7
CURVATURE = np.array([[0.5, 2.0, 1.0], [3.0, 0.1, 0.7]])
START = np.array([[1.0, -2.0, 0.3], [0.0, 4.0, -1.5]])


def gradient(weights: np.ndarray, step: int) -> np.ndarray:
    """Of a parabola whose floor moves with the step."""
    return CURVATURE[: weights.shape[0]] * (weights - 0.1 * step)


# Each rule: (weights, its own gradient, state, step from 1, the optimizer's arguments) -> (new weights, new state)


def sgd(w, g, state, step, args):
    """Sutskever et al. 2013, in the form that keeps the learning rate out of the velocity."""
    velocity = args["momentum"] * state.get("velocity", 0) + g
    direction = g + args["momentum"] * velocity if args["nesterov"] and args["momentum"] else velocity
    return w - LR * direction, {"velocity": velocity}


def rmsprop(w, g, state, step, args):
    """Tieleman and Hinton 2012; forgetting 0.99 and epsilon 1e-8 are torch's."""
    square = 0.99 * state.get("square", 0) + 0.01 * g**2
    velocity = args["momentum"] * state.get("velocity", 0) + g / (np.sqrt(square) + 1e-8)
    return w - LR * velocity, {"square": square, "velocity": velocity}


def adam(w, g, state, step, args):
    """Kingma and Ba 2014, algorithm 1."""
    beta1, beta2 = args["betas"]
    mean = beta1 * state.get("mean", 0) + (1 - beta1) * g
    square = beta2 * state.get("square", 0) + (1 - beta2) * g**2
    unbiased_mean, unbiased_square = mean / (1 - beta1**step), square / (1 - beta2**step)
    return w - LR * unbiased_mean / (np.sqrt(unbiased_square) + 1e-8), {"mean": mean, "square": square}


RULES = {"sgd": sgd, "rmsprop": rmsprop, "adam": adam, "adamw": adam}


def by_the_book(start: np.ndarray, recipe: Recipe, decay: float) -> np.ndarray:
    w, state = start.copy(), {}
    args = scan().find("optimizer", recipe.optimizer).defaults | recipe.optimizer_args
    for step in range(1, STEPS + 1):
        g = gradient(w, step)
        if recipe.optimizer == "adamw":
            w = w - LR * decay * w  # Loshchilov and Hutter 2017, algorithm 2
        else:
            g = g + decay * w
        w, state = RULES[recipe.optimizer](w, g, state, step, args)
    return w


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "optimizer_args": {"momentum": 0.0}},
        {"optimizer": "sgd", "optimizer_args": {"momentum": 0.9, "nesterov": False}},
        {"optimizer": "sgd", "optimizer_args": {"momentum": 0.8, "nesterov": True}},
        {"optimizer": "rmsprop", "optimizer_args": {"momentum": 0.0}},
        {"optimizer": "rmsprop", "optimizer_args": {"momentum": 0.7}},
        {"optimizer": "adam"},
        {"optimizer": "adam", "optimizer_args": {"betas": [0.5, 0.9]}},
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "optimizer_args": {"betas": [0.5, 0.9]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("biases_too", [False, True])
def test_steps_follow_the_textbook(settings, decay, biases_too):
    recipe = Recipe(**settings, weight_decay=decay, decay_norms_and_biases=biases_too)
    weight, bias = (nn.Parameter(torch.tensor(values)) for values in (START, START[1]))
    optimizer = build_optimizer(decay_groups([weight, bias], recipe), recipe, LR)
    for step in range(1, STEPS + 1):
        weight.grad = torch.from_numpy(gradient(weight.detach().numpy(), step))
        bias.grad = torch.from_numpy(gradient(bias.detach().numpy()[None], step)[0])
        optimizer.step()
    expected = by_the_book(START, recipe, decay)
    expected_bias = by_the_book(START[1:], recipe, decay if biases_too else 0.0)[0]
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bias.detach().numpy(), expected_bias, rtol=1e-9, atol=1e-12)
    assert np.abs(expected - START).max() > 0.1


@pytest.mark.parametrize("biases_too", [False, True])
def test_norms_and_biases_do_not_decay_unless_asked(biases_too):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    recipe = Recipe(weight_decay=DECAY, decay_norms_and_biases=biases_too)
    groups = build_optimizer(decay_groups(network.parameters(), recipe), recipe, LR).param_groups
    decay = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay.keys() == set(names.values()) and sum(len(group["params"]) for group in groups) == len(names)
    assert {name for name, value in decay.items() if value} == (set(decay) if biases_too else {"0.weight", "3.weight"})
    assert set(decay.values()) <= {0.0, DECAY}


@pytest.mark.parametrize("shapes", [[(2, 3)], [(3,)]])
def test_parameters_of_one_kind_are_enough(shapes):
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    recipe = Recipe(optimizer="sgd", weight_decay=DECAY)
    groups = build_optimizer(decay_groups(parameters, recipe), recipe, LR).param_groups
    assert [group["weight_decay"] for group in groups] == [DECAY if len(shapes[0]) > 1 else 0.0]


@pytest.mark.parametrize(
    ("lr_base_batch_size", "global_batch", "expected"), [(None, 512, 0.1), (256, 512, 0.2), (256, 256, 0.1), (256, 64, 0.025)]
)
def test_the_learning_rate_grows_with_the_global_batch_if_asked(lr_base_batch_size, global_batch, expected):
    assert scaled_lr(Recipe(lr=0.1, lr_base_batch_size=lr_base_batch_size), global_batch) == pytest.approx(expected)


def test_an_argument_out_of_range_is_one_line():
    recipe = Recipe(optimizer="adamw", optimizer_args={"betas": [1.5, 0.9]})
    with pytest.raises(UserError, match="recipe.optimizer=adamw: Invalid beta parameter at index 0: 1.5"):
        build_optimizer([{"params": [nn.Parameter(torch.ones(2))]}], recipe, LR)
