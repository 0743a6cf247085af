"""Gradients through time, held against powers that are worked by hand and against differences of the loss."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from zoo.analysis.gradient_flow import gradient_norms
from zoo.layers.cells import ReadableLSTM, ReadableRNN

K = torch.arange(1, 20, dtype=torch.float64)
NETWORKS = {
    "rnn": lambda: nn.RNN(3, 4, num_layers=2, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, batch_first=True),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True),
    "readable rnn": lambda: ReadableRNN(3, 4, num_layers=2),
    "readable lstm": lambda: ReadableLSTM(3, 4, num_layers=2),
}


@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("make", [nn.RNN, ReadableRNN])
def test_one_linear_unit_multiplies_the_gradient_by_its_weight_at_each_step(make, weight: float) -> None:
    """With positive inputs and weights a ReLU is always in its linear part: dh[T] / dh[T-k] = w^k."""
    network = make(1, 1, nonlinearity="relu", **({"batch_first": True} if make is nn.RNN else {}))
    with torch.no_grad():
        for name, value in {"weight_ih_l0": 1.0, "weight_hh_l0": weight, "bias_ih_l0": 0.1, "bias_hh_l0": 0.0}.items():
            getattr(network, name).fill_(value)
    inputs = torch.rand(1, 20, 1, generator=torch.Generator().manual_seed(0))
    norms = gradient_norms(network, inputs, torch.sum)
    assert list(norms) == ["h"] and norms["h"].dtype == torch.float64
    torch.testing.assert_close(norms["h"], weight**K, rtol=1e-12, atol=0)


def test_a_diagonal_network_vanishes_and_explodes_unit_by_unit() -> None:
    """Units that do not touch each other: the gradient of their sum over N samples is sqrt(N * sum of w^2k)."""
    weights = torch.tensor([0.25, 1.0, 1.75])
    network = nn.RNN(2, 3, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        network.weight_ih_l0.fill_(1)
        network.weight_hh_l0.copy_(weights.diag())
        network.bias_ih_l0.zero_()
        network.bias_hh_l0.zero_()
    norms = gradient_norms(network, torch.rand(5, 20, 2) + 0.1, torch.sum)["h"]
    expected = (5 * (weights.double() ** (2 * K[:, None])).sum(1)).sqrt()
    torch.testing.assert_close(norms, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bias", [-1.0, 0.0, 3.0])
def test_along_the_cell_of_an_lstm_the_forget_gate_is_all_that_counts(bias: float) -> None:
    """Without weights every gate is sigmoid(bias) whatever h is, so that dc[T] / dc[T-k] = f^k; the last step then shows it.

    The candidate g is tanh(0) = 0, so c stays zero, and h[T] = sigmoid(0) * tanh(c[T]) has the slope 1/2 there.
    """
    network = nn.LSTM(2, 1, batch_first=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.bias_hh_l0[1] = bias
    norms = gradient_norms(network, torch.randn(1, 20, 2), torch.sum)
    torch.testing.assert_close(norms["c"], 0.5 * torch.sigmoid(torch.tensor(bias, dtype=torch.float64)) ** K, rtol=1e-12, atol=0)
    assert not norms["h"].any()


def finite_differences(network: nn.Module, inputs: Tensor, loss, k: int) -> list[float]:
    """The norms k steps back, from centered differences of the loss by every number of the state there."""
    network = copy.deepcopy(network).double()
    cut = inputs.shape[1] - k
    _, state = network(inputs[:, :cut])
    parts = state if isinstance(state, tuple) else (state,)
    norms = []
    for number, part in enumerate(parts):
        slopes = []
        for index in range(part.numel()):
            values = []
            for step in (1e-5, -1e-5):
                moved = [p.clone() for p in parts]
                moved[number].view(-1)[index] += step
                values.append(loss(network(inputs[:, cut:], tuple(moved) if len(moved) > 1 else moved[0])[0][:, -1]).item())
            slopes.append((values[0] - values[1]) / 2e-5)
        norms.append(math.hypot(*slopes))
    return norms


@pytest.mark.parametrize("kind", NETWORKS)
def test_norms_are_those_of_differences_of_the_loss(kind: str) -> None:
    torch.manual_seed(1)
    network, inputs = NETWORKS[kind](), torch.randn(2, 6, 3, dtype=torch.float64)

    def loss(output: Tensor) -> Tensor:
        return (output.sin() * torch.arange(1, 5)).mean()

    norms = gradient_norms(network, inputs, loss)
    assert list(norms) == (["h", "c"] if "lstm" in kind else ["h"]) and all(values.shape == (5,) for values in norms.values())
    with torch.no_grad():
        for k in range(1, 6):
            measured = [values[k - 1].item() for values in norms.values()]
            assert measured == pytest.approx(finite_differences(network, inputs, loss, k), rel=1e-6)


def test_the_network_is_left_as_it_is_and_may_be_frozen() -> None:
    torch.manual_seed(0)
    network, inputs = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True).train(), torch.randn(2, 6, 3)
    expected = gradient_norms(network, inputs, torch.sum)
    network.requires_grad_(False)
    with torch.no_grad():
        again = gradient_norms(network, inputs, torch.sum)
    assert all(torch.equal(again[name], expected[name]) for name in ("h", "c")), "no dropout, and no need of gradients outside"
    assert network.training and all(p.dtype == torch.float32 and p.grad is None for p in network.parameters())


def test_what_cannot_be_measured_is_refused() -> None:
    for network in (nn.RNN(3, 4), nn.RNN(3, 4, batch_first=True, bidirectional=True)):
        with pytest.raises(ValueError, match="batch first"):
            gradient_norms(network, torch.randn(2, 6, 3), torch.sum)
    with pytest.raises(ValueError, match="1 steps"):
        gradient_norms(nn.RNN(3, 4, batch_first=True), torch.randn(2, 1, 3), torch.sum)
