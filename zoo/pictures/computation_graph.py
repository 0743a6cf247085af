"""The computation graph of a logistic unit: the values of the forward pass and the gradients of the backward pass."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zoo.pictures.figure import COLORS, Picture
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

VALUE, GRADIENT = COLORS[0], COLORS[2]
LEAVES = {"w1": 2.0, "x1": -1.0, "w2": -3.0, "x2": -2.0, "b": -3.0}


@dataclass(frozen=True)
class Node:
    """A node of the graph: a tensor that keeps its gradient, and where it is drawn."""

    label: str
    value: Tensor
    inputs: tuple[Node, ...]
    column: float
    row: float


def leaf(label: str, value: float, row: float) -> Node:
    """A parameter or an input, in the first column."""
    return Node(label, torch.tensor(value, dtype=torch.float64, requires_grad=True), (), 0, row)


def apply(label: str, function: Callable[..., Tensor], *inputs: Node) -> Node:
    """The result of an operation, to the right of its inputs."""
    value = function(*(node.value for node in inputs))
    value.retain_grad()
    column = 1 + max(node.column for node in inputs)
    return Node(label, value, inputs, column, sum(node.row for node in inputs) / len(inputs))


def logistic_unit() -> list[Node]:
    """The nodes of loss = -log(sigmoid(w1 x1 + w2 x2 + b)), in the order of the forward pass, after the backward pass."""
    w1, x1, w2, x2, b = (leaf(label, value, -row) for row, (label, value) in enumerate(LEAVES.items()))
    first, second = apply("×", operator.mul, w1, x1), apply("×", operator.mul, w2, x2)
    both = apply("+", operator.add, first, second)
    score = apply("+", operator.add, both, b)
    probability = apply("σ", torch.sigmoid, score)
    logarithm = apply("log", torch.log, probability)
    loss = apply("−", operator.neg, logarithm)
    loss.value.backward()
    return [w1, x1, w2, x2, b, first, second, both, score, probability, logarithm, loss]


def computation_graph(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Draw the graph with values above each edge and gradients below."""
    figure = Figure((11.4, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.3, 7.3), ylim=(-4.5, 0.4), title="loss = −log σ(w1·x1 + w2·x2 + b)")
    axes.axis("off")
    nodes = logistic_unit()
    for node in nodes:
        for source in node.inputs:
            _draw_edge(axes, source, node.column, node.row)
    _draw_edge(axes, nodes[-1], nodes[-1].column + 1, nodes[-1].row)
    for node in nodes:
        color = "white" if node.inputs else "0.9"
        box = {"boxstyle": "circle,pad=0.45" if node.inputs else "round,pad=0.4", "facecolor": color, "edgecolor": "0.3"}
        axes.text(node.column, node.row, node.label, ha="center", va="center", fontsize=11, bbox=box)
    axes.text(4.6, -0.5, "above: value, forward", color=VALUE)
    axes.text(4.6, -0.8, "below: gradient of the loss, backward", color=GRADIENT)
    return Picture(
        figure,
        "the backward pass goes from right to left: each node multiplies the gradient that arrives by its own derivative. A sum "
        "hands it on unchanged, a product swaps its inputs, and the gradient of the score is the probability minus 1",
        "zoo check mlp --gradients",
    )


def _draw_edge(axes: Axes, source: Node, column: float, row: float) -> None:
    start, end = (source.column, source.row), (column, row)
    arrow = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 17, "shrinkB": 17}
    axes.annotate("", end, start, arrowprops=arrow)
    x, y = source.column + 0.5, (source.row + row) / 2
    if column - source.column > 1:  # a long edge is labeled near its source, where it crosses no other
        x, y = source.column + 0.75, source.row + 0.75 * (row - source.row) / (column - source.column)
    assert source.value.grad is not None
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for number, color, side in ((source.value, VALUE, "bottom"), (source.value.grad, GRADIENT, "top")):
        axes.text(x, y, f"{number.item():.3g}", color=color, ha="center", va=side, fontsize=9, bbox=behind)
