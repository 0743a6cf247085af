"""The pictures of concepts, which need no run: what each computes agrees with formulas worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.pictures.computation_graph import LEAVES, logistic_unit
from zoo.pictures.convolution import EDGES, IMAGE, SLIDINGS
from zoo.pictures.losses import PANELS, SCORES, measure
from zoo.pictures.norm_axes import averaged_with
from zoo.pictures.optimizer_paths import RECIPES, descend, saddle, valley

SLOW = ("computation-graph", "convolution", "norm-axes", "optimizer-paths")  # they take one way through the command


@pytest.mark.parametrize("kind", ["losses", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_the_command_draws_it_without_runs(zoo, kind):
    answer = zoo("picture", kind)
    assert answer.code == 0 and f"{kind}.png: " in answer.out and "next: zoo " in answer.out, answer.err
    with Image.open(f"{kind}.png") as picture:
        assert picture.width > 1000
    assert zoo("picture", kind, "first").is_one_line_error(f"write it as zoo picture {kind}: 1 runs")
    assert [path.name for path in Path().iterdir()] == [f"{kind}.png"]


def test_sgd_shrinks_each_distance_to_the_minimum_by_a_constant_factor():
    path, losses = descend(valley, (-2.0, 1.0), RECIPES["SGD"])
    steps, lr = torch.arange(len(path)), RECIPES["SGD"].lr
    torch.testing.assert_close(path[:, 0], 1 - 3 * (1 - lr) ** steps, check_dtype=False)
    torch.testing.assert_close(path[:, 1], 0.5 + 0.5 * (1 - 20 * lr) ** steps, check_dtype=False)
    torch.testing.assert_close(losses, (path[:, 0] - 1) ** 2 / 2 + 10 * (path[:, 1] - 0.5) ** 2)


def test_adaptive_optimizers_leave_the_saddle_first_and_decay_moves_the_end():
    left = {name: (descend(saddle, (-1.5, 0.01), recipe)[0][:, 1] > 0.5).nonzero()[0].item() for name, recipe in RECIPES.items()}
    slow = left.pop("SGD"), left.pop("SGD, momentum 0.9")
    assert max(left.values()) < 10 < min(slow)
    first = descend(valley, (-2.0, 1.0), RECIPES["Adam"])[0][1]
    assert first.tolist() == pytest.approx([-1.85, 0.85])  # the first step of Adam is lr in each direction
    *_, adam, decayed = (descend(valley, (-2.0, 1.0), recipe)[1][-1] for recipe in RECIPES.values())
    assert decayed > 5 * adam


def test_losses_and_derivatives_are_those_of_their_formulas():
    s = SCORES.numpy()
    p, off = 1 / (1 + np.exp(-s)), np.abs(s)
    formulas = {
        "cross-entropy": (-np.log(p), p - 1),
        "hinge": (np.maximum(0, 1 - s), -(s < 1).astype(float)),
        "bce": (-np.log(p), p - 1),
        "focal": (-0.25 * (1 - p) ** 2 * np.log(p), 0.25 * (1 - p) ** 2 * (2 * p * np.log(p) + p - 1)),
        "mse": (s**2, 2 * s),
        "l1": (off, np.sign(s)),
        "huber": (np.where(off < 1, s**2 / 2, off - 0.5), np.clip(s, -1, 1)),
    }
    for samples, names, _ in PANELS.values():
        for name in names:
            values, slopes = measure(name, samples)
            kink = np.abs(s - 1) < 1e-9 if name == "hinge" else np.zeros(len(s), dtype=bool)
            np.testing.assert_allclose(values, formulas[name][0], atol=1e-6, err_msg=name)
            np.testing.assert_allclose(slopes[~kink], formulas[name][1][~kink], atol=1e-6, err_msg=name)


def test_the_graph_holds_the_gradients_of_the_formula():
    nodes = logistic_unit()
    score = LEAVES["w1"] * LEAVES["x1"] + LEAVES["w2"] * LEAVES["x2"] + LEAVES["b"]
    error = 1 / (1 + math.exp(-score)) - 1
    partners = {"w1": "x1", "x1": "w1", "w2": "x2", "x2": "w2"}
    for node in nodes[:5]:
        factor = LEAVES[partners[node.label]] if node.label in partners else 1
        assert node.value.grad.item() == pytest.approx(error * factor)
    assert nodes[-1].value.item() == pytest.approx(math.log(1 + math.exp(-score)))
    assert len({(node.column, node.row) for node in nodes}) == len(nodes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("batch", np.s_[:, 0]), ("layer", np.s_[0]), ("instance", np.s_[0, 0]), ("group", np.s_[0, :2])],
)
def test_each_norm_averages_over_its_own_axes(name, expected):
    shared = np.zeros((4, 6, 5), dtype=bool)
    shared[expected] = True
    assert np.array_equal(averaged_with(name), shared)


def test_windows_give_sums_of_products_and_maxima():
    for sliding in SLIDINGS:
        padded = np.pad(IMAGE.numpy(), sliding.padding)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        whole = windows.max((2, 3)) if sliding.is_pooling else (windows * EDGES.numpy()).sum((2, 3))
        assert np.array_equal(sliding.slide(IMAGE), whole[:: sliding.stride, :: sliding.stride])
