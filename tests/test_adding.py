"""The adding problem: what its sequences are, and that a network with a cell learns it where a vanilla one has not yet."""

from __future__ import annotations

import pytest
import torch

from benchmarks.adding import Adder, sequences, train


def test_sequences_mark_one_number_in_either_half_and_ask_for_their_sum() -> None:
    pairs, sums = sequences(20_000, 15, seed=3)
    numbers, markers = pairs.unbind(2)
    assert pairs.shape == (20_000, 15, 2) and numbers.min() >= 0 and numbers.max() <= 1
    assert set(markers.unique().tolist()) == {0, 1}
    assert markers[:, :7].sum(1).eq(1).all() and markers[:, 7:].sum(1).eq(1).all() and markers.sum(0).min() > 0
    torch.testing.assert_close((numbers * markers).sum(1), sums)
    assert sums.var().item() == pytest.approx(1 / 6, rel=0.03), "what is left for who gives the mean"
    assert torch.equal(sequences(20_000, 15, seed=3)[0], pairs) and not torch.equal(sequences(20_000, 15, seed=4)[0], pairs)


def test_the_forget_gates_start_with_a_bias_of_one() -> None:
    network = Adder("LSTM", 6).recurrent
    _, forget, _, _ = (network.bias_ih_l0 + network.bias_hh_l0).chunk(4)
    assert forget.eq(1).all()


def test_an_lstm_learns_short_sequences_where_a_vanilla_network_has_not() -> None:
    settings = {"length": 16, "hidden": 32, "batch": 32, "lr": 1e-2, "seed": 0}
    lstm = train("LSTM", steps=1000, **settings)
    vanilla = train("vanilla RNN", steps=lstm.steps, **settings)
    assert lstm.error < 0.01 < vanilla.error
