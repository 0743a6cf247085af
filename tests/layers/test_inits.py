"""Initial weights: equal to torch's own draws, with the variance of the formulas, and with the effect that the course shows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zoo
from zoo.core.errors import UserError
from zoo.layers.activations import activation, gain
from zoo.layers.inits import initialize

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky-relu", "elu", "gelu", "silu")


@pytest.mark.parametrize(
    ("description", "reference"),
    [
        ("small-normal", lambda w: nn.init.normal_(w, 0, 0.01)),
        ("small-normal:0.03", lambda w: nn.init.normal_(w, 0, 0.03)),
        ("large-normal", lambda w: nn.init.normal_(w, 0, 1)),
        ("large-normal:2.5", lambda w: nn.init.normal_(w, 0, 2.5)),
        ("xavier", lambda w: nn.init.xavier_normal_(w, math.sqrt(2))),
        ("kaiming", lambda w: nn.init.kaiming_normal_(w, mode="fan_in", nonlinearity="relu")),
        ("kaiming:in", lambda w: nn.init.kaiming_normal_(w, mode="fan_in", nonlinearity="relu")),
        ("kaiming:out", lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")),
        ("torch", lambda w: w),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(40, 70), nn.Conv2d(6, 20, (3, 5)), nn.Conv2d(8, 12, 3, groups=4)], ids=str)
def test_weights_are_those_of_torch(description: str, reference, layer: nn.Module) -> None:
    expected = layer.weight.detach().clone()
    bias = layer.bias.detach().clone()
    torch.manual_seed(3)
    reference(expected)
    torch.manual_seed(3)
    initialize([nn.Sequential(layer)], description, "relu")
    torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(layer.bias, bias) if description == "torch" else not layer.bias.any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_standard_deviations_are_those_of_the_papers(name: str) -> None:
    convolution = nn.Conv2d(64, 128, 5)
    fan_in, fan_out = 64 * 25, 128 * 25
    for description, expected in (
        ("xavier", gain(name) * math.sqrt(2 / (fan_in + fan_out))),
        ("kaiming:in", gain(name) / math.sqrt(fan_in)),
        ("kaiming:out", gain(name) / math.sqrt(fan_out)),
    ):
        initialize([convolution], description, name)
        assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ["relu", "leaky-relu", "elu", "gelu", "silu"])
def test_a_gain_makes_up_for_what_the_activation_takes(name: str) -> None:
    z = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    expected = float(torch.trapezoid(activation(name)(z.clone()) ** 2 * density, z)) ** -0.5
    assert gain(name) == pytest.approx(expected, rel=1e-4)


def test_torchs_gains_are_taken_where_it_has_one() -> None:
    assert gain("tanh") == 5 / 3 and gain("sigmoid") == 1
    assert gain("leaky-relu") == nn.init.calculate_gain("leaky_relu", 0.01)


def spread(init: str, name: str) -> list[torch.Tensor]:
    """What comes out of each of ten hidden layers, each 1,000 wide, for normal inputs."""
    spec = zoo.ImageSpec(1, 25, 40, classes=("a", "b"))
    torch.manual_seed(0)
    task = zoo.create_model("mlp", spec, hidden_sizes=[1000] * 10, activation=name, init=init)
    outputs: list[torch.Tensor] = []
    for layer in task.hidden:
        layer.register_forward_hook(lambda module, given, output: outputs.append(output.detach()))
    with torch.no_grad():
        task.eval()(torch.randn(32, *spec.shape))
    return outputs


def deviations(init: str, name: str) -> list[float]:
    return [float(output.std()) for output in spread(init, name)]


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_small_weights_make_activations_vanish(name: str) -> None:
    values = deviations("small-normal:0.005", name)
    assert values[-1] < 1e-4 * values[0]
    assert all(after < before for before, after in zip(values, values[1:], strict=False))


def test_large_weights_saturate_tanh_and_blow_up_relu() -> None:
    assert all(float((output.abs() > 0.99).float().mean()) > 0.9 for output in spread("large-normal", "tanh"))
    values = deviations("large-normal", "relu")
    assert values[-1] > 1e11 * values[0]


@pytest.mark.parametrize(("init", "name"), [("xavier", "tanh"), ("kaiming", "relu"), ("kaiming", "tanh")])
def test_xavier_and_kaiming_hold_the_scale(init: str, name: str) -> None:
    values = deviations(init, name)
    assert max(values) < 1.2 * min(values), values


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("kaimin", "'kaiming'"),
        ("kaiming:up", "in or out"),
        ("small-normal:wide", "above 0"),
        ("large-normal:-1", "above 0"),
        ("xavier:2", "no parameter"),
    ],
)
def test_a_wrong_description_is_one_line(description: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        initialize([nn.Linear(2, 2)], description, "relu")
