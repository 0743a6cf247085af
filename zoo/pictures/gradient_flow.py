"""Gradients through time: how they vanish or explode in a vanilla recurrent network, and last in an LSTM that does not forget."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from torch import Tensor, nn

from zoo.analysis.gradient_flow import gradient_norms
from zoo.pictures.figure import COLORS, Picture
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

HIDDEN, SAMPLES, STEPS_BACK = 128, 8, 100
WARMING_UP = 50  # steps after which the state no longer remembers that it started at zero
INPUT_SIZE = 0.1  # weak inputs leave tanh nearly linear, until the state itself has grown
RADII = (0.5, 1.0, 2.0)  # saturation takes back much of what a radius above 1 adds
FORGET_BIASES = (0.0, 1.0, 3.0)
STATE_STYLES = {"h": {"linestyle": (0, (4, 2)), "linewidth": 1.3}, "c": {"linestyle": "-"}}

Norms = dict[str, Tensor]  # h, and c of an LSTM, each [k]


def gradient_flow(registry: Registry, runs: list[RunFolder]) -> Picture:
    """The standard comparison: networks as they start, on random inputs, with a random direction of the last output as loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = INPUT_SIZE * torch.randn(SAMPLES, WARMING_UP + STEPS_BACK + 1, HIDDEN)
        direction = torch.randn(HIDDEN, dtype=torch.float64) / HIDDEN**0.5
        vanilla = {f"spectral radius {radius:g}": vanilla_network(radius) for radius in RADII}
        lstm = {f"forget bias {bias:g} (gate {1 / (1 + math.exp(-bias)):.2f})": lstm_network(bias) for bias in FORGET_BIASES}

    def measure(networks: dict[str, nn.Module]) -> dict[str, Norms]:
        measured = {label: gradient_norms(net, inputs, lambda out: (out @ direction).mean()) for label, net in networks.items()}
        return {label: {name: norms[:STEPS_BACK] for name, norms in states.items()} for label, states in measured.items()}

    return Picture(
        draw_gradient_flow({"vanilla recurrent network (tanh), untrained": measure(vanilla), "LSTM, untrained": measure(lstm)}),
        "on these axes a straight line is a power: a vanilla network multiplies the gradient at each step, so that it vanishes "
        "or explodes unless the spectral radius of its recurrent weights is close to 1; the cell of an LSTM multiplies it by the "
        "forget gate, which a bias opens from the start and training opens where it is needed",
        "zoo train char-lstm",
    )


def vanilla_network(spectral_radius: float) -> nn.RNN:
    """A network whose recurrent weights are normal, scaled to the largest absolute eigenvalue."""
    network = nn.RNN(HIDDEN, HIDDEN, batch_first=True)
    with torch.no_grad():
        weight = torch.randn(HIDDEN, HIDDEN)
        network.weight_hh_l0.copy_(weight * spectral_radius / torch.linalg.eigvals(weight).abs().max())
        network.bias_ih_l0.zero_()
        network.bias_hh_l0.zero_()
    return network


def lstm_network(forget_bias: float) -> nn.LSTM:
    """A network with torch's weights, and no biases but that of the forget gate."""
    network = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
    with torch.no_grad():
        network.bias_ih_l0.zero_()
        network.bias_hh_l0.zero_()
        network.bias_ih_l0[HIDDEN : 2 * HIDDEN] = forget_bias  # gates lie in the order i, f, g, o
    return network


def draw_gradient_flow(panels: dict[str, dict[str, Norms]]) -> Figure:
    """A panel for each title, on the same axes, with a color for each label; h is dashed where there is a c, which is not."""
    figure = Figure((10.4, 4.8), layout="constrained")
    axes_of_all = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, networks) in zip(axes_of_all, panels.items(), strict=True):
        axes.axhline(1, color="gray", linewidth=0.8)  # between what explodes and what vanishes
        handles = []
        for color, (label, norms) in zip(COLORS, networks.items(), strict=False):
            for state, values in norms.items():
                style = STATE_STYLES[state] if len(norms) > 1 else {}
                axes.plot(range(1, len(values) + 1), values, color=color, **style)
            handles.append(Line2D([], [], color=color, label=label))
        if any(len(norms) > 1 for norms in networks.values()):
            names = {"c": "of the cell c", "h": "of the hidden state h"}
            handles += [Line2D([], [], color="gray", **STATE_STYLES[state], label=name) for state, name in names.items()]
        axes.set(title=title, xlabel="k, steps back from the loss", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(numticks=10))
        axes.yaxis.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(handles=handles, loc="lower left", fontsize=8)
    axes_of_all[0].set_ylabel("norm of the gradient at the state k steps back")
    return figure
