"""Layers by name: each is its formula, and every network that takes them trains with each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zoo
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.activations import activation as make_activation
from zoo.layers.norms import norm_1d, norm_2d
from zoo.registry.registry import scan

NORMS = ("none", "batch", "layer", "instance", "group")
AXES = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}
FORMULAS = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky-relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.exp(z) - 1),
    "gelu": lambda z: z * np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(z),
    "silu": lambda z: z / (1 + np.exp(-z)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name: str) -> None:
    z = np.linspace(-4, 4, 101)
    np.testing.assert_allclose(make_activation(name)(torch.tensor(z)).numpy(), FORMULAS[name](z), atol=1e-12)


@pytest.mark.parametrize("name", AXES)
def test_norms_of_maps_are_their_formulas(name: str) -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 7))
    expected = (x - x.mean(AXES[name], keepdims=True)) / np.sqrt(x.var(AXES[name], keepdims=True) + 1e-5)
    layer = norm_2d(name, 6).double()
    torch.nn.init.constant_(layer.weight, 1.5)
    torch.nn.init.constant_(layer.bias, -0.5)
    np.testing.assert_allclose(layer(torch.tensor(x)).detach().numpy(), 1.5 * expected - 0.5, rtol=1e-9)


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (16, 1), (24, 3), (4, 1), (48, 3), (7, 7)])
def test_group_norm_takes_sixteen_channels_or_what_divides(channels: int, groups: int) -> None:
    x = np.random.default_rng(0).normal(2, 3, (2, channels, 3, 3))
    parts = x.reshape(2, groups, -1)
    expected = ((parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(norm_2d("group", channels).double()(torch.tensor(x)).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(("name", "axis"), [("batch", 0), ("layer", 1)])
def test_norms_of_vectors_are_their_formulas(name: str, axis: int) -> None:
    x = np.random.default_rng(0).normal(2, 3, (9, 5))
    expected = (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm_1d(name, 5).double()(torch.tensor(x)).detach().numpy(), expected, rtol=1e-9)


def test_no_norm_is_nothing() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert norm_2d("none", 3)(x) is x and norm_1d("none", 3)(x) is x


REGISTRY = scan()
IMAGE_MODELS = [entry for entry in REGISTRY.models.values() if entry.task == "classification"]
TAKING = {
    option: sorted({entry.class_name: entry.name for entry in IMAGE_MODELS if option in entry.defaults}.values())
    for option in ("activation", "norm", "dropout", "init")
}


def tiny(name: str, **options):
    entry = REGISTRY.model(name)
    size = 64 if "imagenet" in entry.tags else 32
    torch.manual_seed(0)
    return zoo.create_model(name, zoo.ImageSpec(3, size, size, classes=("a", "b", "c")), Recipe(), **{**entry.tiny, **options})


def trains_a_step(task) -> None:
    task.train()
    task.training_step(task.example_batch(4), 0).backward()
    silent = [name for name, parameter in task.named_parameters() if parameter.grad is None]
    assert not silent


def test_networks_take_what_they_can() -> None:
    assert len(TAKING["activation"]) == len(TAKING["init"]) == 4
    assert len(TAKING["norm"]) == 5 and len(TAKING["dropout"]) == 8


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize("name", TAKING["activation"])
def test_every_network_trains_with_every_activation(name: str, activation: str) -> None:
    task = tiny(name, activation=activation)
    kinds = {type(layer) for layer in task.modules()}
    assert type(make_activation(activation)) in kinds
    trains_a_step(task)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", TAKING["norm"])
def test_every_network_trains_with_every_norm(name: str, norm: str) -> None:
    if name == "mlp" and norm == "instance":
        with pytest.raises(UserError, match="norm=instance"):
            tiny(name, norm=norm)
        return
    task = tiny(name, norm=norm)
    batch_norms = [m for m in task.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    assert bool(batch_norms) == (norm == "batch")
    trains_a_step(task)


@pytest.mark.parametrize("name", TAKING["dropout"])
def test_dropout_silences_in_training_alone(name: str) -> None:
    task = tiny(name, dropout=0.5)
    task.eval()
    batch = task.example_batch(4)
    assert torch.equal(task.predict_step(batch), task.predict_step(batch))
    for layer in task.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.train()
    assert not torch.equal(task.predict_step(batch), task.predict_step(batch))
    with pytest.raises(UserError, match="dropout=1"):
        tiny(name, dropout=1.0)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_zero_init_makes_blocks_start_as_their_shortcuts(name: str) -> None:
    task = tiny(name, zero_init_residual=True)
    last = [m for n, m in task.named_modules() if n.endswith((".norm2", ".bn2", ".bn3")) and isinstance(m, torch.nn.BatchNorm2d)]
    zeros = [norm for norm in last if not norm.weight.any()]
    blocks = [m for m in task.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck")]
    assert len(zeros) == len(blocks)
    block = blocks[0]
    if name == "resnet20":
        x = torch.rand(2, 4, 8, 8)  # not negative, so that the activation at the end changes nothing
        torch.testing.assert_close(block(x.clone()), x)
    with pytest.raises(UserError, match="zero_init_residual"):
        tiny(name, zero_init_residual=True, norm="none")


def test_a_wrong_name_is_one_line_with_the_known_ones(zoo) -> None:
    assert zoo("train", "resnet20", "--set", "model.norm=bach").is_one_line_error("model.norm=bach", "'batch'")
    assert zoo("train", "mlp", "--set", "model.activation=reul").is_one_line_error("model.activation=reul", "'relu'")
    assert zoo("train", "mlp", "--set", "model.init=kaimin").is_one_line_error("kaimin", "did you mean 'kaiming'")
    answer = zoo("show", "resnet20")
    assert "(none, batch, layer, instance, group)" in answer.out
