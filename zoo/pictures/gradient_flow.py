"""Vanishing and exploding gradients through time in a vanilla RNN and an LSTM."""

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
WARMUP = 50  # steps after which the zero initial state is forgotten
INPUT_SCALE = 0.1  # keeps tanh nearly linear until the state has grown
RADII = (0.5, 1.0, 2.0)  # saturation counteracts a radius above 1
FORGET_BIASES = (0.0, 1.0, 3.0)
STATE_STYLES = {"h": {"linestyle": (0, (4, 2)), "linewidth": 1.3}, "c": {"linestyle": "-"}}

Norms = dict[str, Tensor]  # h, and c of an LSTM, each [k]


def gradient_flow(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Compare networks at initialization on random inputs; the loss is a random projection of the last output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = INPUT_SCALE * torch.randn(SAMPLES, WARMUP + STEPS_BACK + 1, HIDDEN)
        direction = torch.randn(HIDDEN, dtype=torch.float64) / HIDDEN**0.5
        vanilla = {f"spectral radius {radius:g}": vanilla_network(radius) for radius in RADII}
        lstm = {f"forget bias {bias:g} (gate {1 / (1 + math.exp(-bias)):.2f})": lstm_network(bias) for bias in FORGET_BIASES}

    def measure(networks: dict[str, nn.Module]) -> dict[str, Norms]:
        measured = {label: gradient_norms(net, inputs, lambda out: (out @ direction).mean()) for label, net in networks.items()}
        return {label: {name: norms[:STEPS_BACK] for name, norms in states.items()} for label, states in measured.items()}

    return Picture(
        draw_gradient_flow({"vanilla RNN (tanh), untrained": measure(vanilla), "LSTM, untrained": measure(lstm)}),
        "on the logarithmic y axis exponential growth or decay is a straight line: the recurrent weights of a vanilla RNN scale "
        "the gradient at each step, so that it vanishes or explodes unless their spectral radius is close to 1; in the cell of "
        "an LSTM the forget gate scales it, which its bias opens at initialization, and training where needed",
        "zoo train char-lstm",
    )


def vanilla_network(spectral_radius: float) -> nn.RNN:
    """An RNN with normal recurrent weights, scaled to a spectral radius."""
    network = nn.RNN(HIDDEN, HIDDEN, batch_first=True)
    with torch.no_grad():
        weight = torch.randn(HIDDEN, HIDDEN)
        network.weight_hh_l0.copy_(weight * spectral_radius / torch.linalg.eigvals(weight).abs().max())
        network.bias_ih_l0.zero_()
        network.bias_hh_l0.zero_()
    return network


def lstm_network(forget_bias: float) -> nn.LSTM:
    """An LSTM with default weights and zero biases except that of the forget gate."""
    network = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
    with torch.no_grad():
        network.bias_ih_l0.zero_()
        network.bias_hh_l0.zero_()
        network.bias_ih_l0[HIDDEN : 2 * HIDDEN] = forget_bias  # gates lie in the order i, f, g, o
    return network


def draw_gradient_flow(panels: dict[str, dict[str, Norms]]) -> Figure:
    """Draw a panel per title with shared axes and a color per label; with two states, c is solid and h dashed."""
    figure = Figure((10.4, 4.8), layout="constrained")
    axes_of_all = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, networks) in zip(axes_of_all, panels.items(), strict=True):
        axes.axhline(1, color="gray", linewidth=0.8)  # between exploding and vanishing
        handles = []
        for color, (label, norms) in zip(COLORS, networks.items(), strict=False):
            for state, values in norms.items():
                style = STATE_STYLES[state] if len(norms) > 1 else {}
                axes.plot(range(1, len(values) + 1), values, color=color, **style)
            handles.append(Line2D([], [], color=color, label=label))
        if any(len(norms) > 1 for norms in networks.values()):
            names = {"c": "cell state c", "h": "hidden state h"}
            handles += [Line2D([], [], color="gray", **STATE_STYLES[state], label=name) for state, name in names.items()]
        axes.set(title=title, xlabel="k, steps before the loss", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(numticks=10))
        axes.yaxis.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(handles=handles, loc="lower left", fontsize=8)
    axes_of_all[0].set_ylabel("gradient norm of the state k steps before the loss (logarithmic)")
    return figure
