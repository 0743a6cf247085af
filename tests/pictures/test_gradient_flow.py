"""The picture of gradients through time: what is measured for it, and where it is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from zoo.pictures import gradient_flow as module
from zoo.pictures.figure import style
from zoo.pictures.gradient_flow import draw_gradient_flow, gradient_flow, lstm_network, vanilla_network


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 32, "STEPS_BACK": 30, "WARMUP": 5}.items():
        monkeypatch.setattr(module, name, value)


def growth(line) -> float:
    """The factor from step to step, over the last half of a line."""
    values = np.log(line.get_ydata())
    return np.exp(np.polyfit(np.arange(len(values) // 2), values[-(len(values) // 2) :], 1)[0])


def drawn(axes) -> list:
    """The lines of networks, without the level at 1."""
    return [line for line in axes.lines if len(line.get_ydata()) > 2]


def test_the_standard_comparison_vanishes_explodes_and_lasts(few_steps) -> None:
    with style():
        vanilla, lstm = gradient_flow(None, []).figure.axes
    assert vanilla.get_ylabel().endswith("(logarithmic)") and vanilla.get_xscale() == "linear"
    assert all(axes.get_yscale() == "log" and axes.get_xlabel().startswith("k, steps before") for axes in (vanilla, lstm))
    half, one, two = map(growth, drawn(vanilla))
    assert half < 0.6 and 0.8 < one < 1.05 and two > 1.05
    closed_h, closed, middle_h, middle, open_h, opened = map(growth, drawn(lstm))  # h and c of three networks
    assert closed < middle < opened and closed_h < middle_h < open_h
    assert 0.5 <= closed < 0.75 < opened < 1.15
    for line in drawn(vanilla) + drawn(lstm):
        assert list(line.get_xdata()) == list(range(1, 31)) and np.isfinite(line.get_ydata()).all()


def test_networks_are_what_their_labels_say(few_steps) -> None:
    for radius in (0.5, 2.0):
        eigenvalues = np.linalg.eigvals(vanilla_network(radius).weight_hh_l0.detach().double().numpy())
        assert np.abs(eigenvalues).max() == pytest.approx(radius, rel=1e-4)
    network = lstm_network(1.0)
    _, forget, _, _ = (network.bias_ih_l0 + network.bias_hh_l0).chunk(4)
    assert forget.eq(1).all() and (network.bias_ih_l0 + network.bias_hh_l0).sum() == len(forget)


def test_each_part_of_a_state_is_drawn_as_it_is() -> None:
    vanilla = {"small": {"h": torch.tensor([1.0, 0.1])}, "large": {"h": torch.tensor([1.0, 10.0])}}
    lstm = {"gated": {"h": torch.tensor([0.5, 0.25]), "c": torch.tensor([0.75, 0.5])}}
    with style():
        figure = draw_gradient_flow({"left": vanilla, "right": lstm})
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["left", "right"] and left.get_ylim() == right.get_ylim()
    small, large = left.lines[1:]
    assert small.get_ydata() == pytest.approx([1, 0.1]) and large.get_ydata() == pytest.approx([1, 10])
    assert small.get_color() != large.get_color() and small.get_linestyle() == "-"
    hidden, cell = right.lines[1:]
    assert hidden.get_ydata() == pytest.approx([0.5, 0.25]) and cell.get_ydata() == pytest.approx([0.75, 0.5])
    assert hidden.get_linestyle() == "--" and cell.get_linestyle() == "-" and hidden.get_color() == cell.get_color()
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["small", "large"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["gated", "cell state c", "hidden state h"]


def test_the_command_draws_it_without_runs_and_alike_each_time(zoo, few_steps) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    files = []
    for _ in range(2):
        answer = zoo("picture", "gradient-flow")
        assert answer.code == 0 and "vanishes or explodes" in answer.out, answer.err
        files.append(Path("gradient-flow.png").read_bytes())
    assert files[0] == files[1] and torch.equal(torch.get_rng_state(), state)
    with Image.open("gradient-flow.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert zoo("picture", "gradient-flow", "first").is_one_line_error("write it as zoo picture gradient-flow: 1 runs")
