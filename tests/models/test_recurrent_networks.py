"""Recurrent networks over sequences: figures by hand, how gates start, and that an LSTM remembers what a vanilla one forgets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import zoo
from zoo.core.errors import UserError
from zoo.spec import SequenceSpec

NUMBERS, SYMBOLS = SequenceSpec(5, 2), SequenceSpec(4, 3, symbols=("-", "a", "b"))


def test_a_number_is_judged_by_its_squared_error_and_solved_within_four_hundredths() -> None:
    task = zoo.create_model("lstm", NUMBERS, hidden_size=4)
    scored = task.score(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.03, 0.45, 2.0]))
    torch.testing.assert_close(scored["loss"], torch.tensor([0.0009, 0.0025, 4.0]))
    assert scored["solved"].tolist() == [1, 0, 0] and "accuracy" not in scored


def test_symbols_are_judged_at_each_step_and_are_right_where_there_is_something_to_say() -> None:
    task = zoo.create_model("gru", SYMBOLS, hidden_size=4)
    scores = torch.zeros(2, 4, 3)
    scores[0, :, 2] = math.log(2)  # probabilities 1/4, 1/4, 1/2
    scored = task.score(scores, torch.tensor([[0, 0, 1, 2], [0, 0, 2, 1]]))
    expected = [(3 * math.log(4) + math.log(2)) / 4, math.log(3)]
    torch.testing.assert_close(scored["loss"], torch.tensor(expected))
    assert scored["accuracy"].tolist() == [0.5, 0], "the second says nothing at all"


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_the_answer_is_at_each_step_or_one_number(name: str) -> None:
    for spec, shape in ((NUMBERS, (6,)), (SYMBOLS, (6, 4, 3))):
        task = zoo.create_model(name, spec, hidden_size=4, num_layers=2).eval()
        assert task.predict_step(task.example_batch(6)).shape == shape


def test_the_answer_is_the_last_output_through_the_head() -> None:
    task = zoo.create_model("rnn", NUMBERS, hidden_size=3)
    inputs = task.example_batch(2)["inputs"]
    state = torch.zeros(2, 3)
    layer = task.recurrent
    for step in inputs.unbind(1):
        state = (step @ layer.weight_ih_l0.T + layer.bias_ih_l0 + state @ layer.weight_hh_l0.T + layer.bias_hh_l0).tanh()
    torch.testing.assert_close(task(inputs), state @ task.head.weight[0] + task.head.bias)


def test_cells_start_out_keeping_what_they_have_for_different_times_up_to_the_horizon() -> None:
    torch.manual_seed(0)
    for layer in zoo.create_model("lstm", NUMBERS, hidden_size=500, num_layers=2, chrono_t_max=50).recurrent.all_weights:
        i, f, g, o = (layer[2] + layer[3]).chunk(4)
        assert torch.equal(i, -f), "what is kept is not written over"
        times = f.exp()  # with the gate at sigmoid(log t) = t / (t + 1), a value falls to 1/e within about t steps
        assert 1 <= times.min() < 2 and 49 < times.max() <= 50 and times.mean().item() == pytest.approx(25.5, rel=0.1)
        assert max(g.abs().max(), o.abs().max()) < 0.1
    r, z, n = (lambda w: (w[2] + w[3]).chunk(3))(
        zoo.create_model("gru", NUMBERS, hidden_size=500, chrono_t_max=50).recurrent.all_weights[0]
    )
    assert 49 < z.exp().max() <= 50 and z.min() >= 0 and max(r.abs().max(), n.abs().max()) < 0.1
    plain = zoo.create_model("lstm", NUMBERS, hidden_size=4, chrono_t_max=1).recurrent
    assert not (plain.bias_ih_l0 + plain.bias_hh_l0)[:8].any(), "gates half open"
    with pytest.raises(UserError, match="chrono_t_max=0"):
        zoo.create_model("gru", NUMBERS, chrono_t_max=0)


def test_labels_are_smoothed_only_where_there_are_any() -> None:
    with pytest.raises(UserError, match=r"recipe.label_smoothing=0.1"):
        zoo.create_model("lstm", NUMBERS, zoo.Recipe(label_smoothing=0.1))
    zoo.create_model("lstm", SYMBOLS, zoo.Recipe(label_smoothing=0.1))


def test_a_network_can_be_tested_on_longer_sequences_but_not_on_another_task(zoo) -> None:
    quick = ("--epochs", "1", "--set", "data.length=6", "--set", "data.num_sequences=64", "--set", "model.hidden_size=4")
    trained = zoo("train", "gru", "--name", "adder", *quick)
    assert trained.code == 0 and "test/solved" in trained.out and "zoo report adder" in trained.out
    assert zoo("test", "adder", "--set", "data.length=30").code == 0
    assert zoo("test", "adder", "--data", "copy-memory").is_one_line_error("copy-memory", "symbols")
    assert zoo("train", "gru", "--data", "digits").is_one_line_error("sequence-memory", "adding-problem")
    Path("x.png").touch()
    assert zoo("predict", "adder", "x.png").is_one_line_error("takes no image files", "zoo test")


@pytest.mark.slow
def test_an_lstm_learns_short_sequences_where_a_vanilla_network_has_not(zoo) -> None:
    settings = ("--set", "data.length=16", "--set", "model.hidden_size=32", "--set", "recipe.batch_size=32", "--epochs", "2")
    errors = [json.loads(zoo("train", name, *settings, "--json").out)["test/loss"] for name in ("lstm", "rnn")]
    assert errors[0] < 0.01 < errors[1]
