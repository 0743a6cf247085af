"""Gates of recurrent layers equal those of the same equations, step by step and in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from everything import Everything, data, trainer
from torch import Tensor, nn

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.gates import gates


def step_by_step(kind: str, weights: list[Tensor], inputs: Tensor, hidden: Tensor, cell: Tensor | None) -> dict[str, Tensor]:
    """The equations of torch's documentation, one step after the other; inputs [T, N, I], the rest [N, H]; values [T, N, H]."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    told: dict[str, list[Tensor]] = {}
    for given in inputs:
        a, b = given @ weight_ih.T + bias_ih, hidden @ weight_hh.T + bias_hh
        if kind == "LSTM":
            i, f, g, o = (a + b).chunk(4, -1)
            found = {"input": i.sigmoid(), "forget": f.sigmoid(), "candidate": g.tanh(), "output": o.sigmoid()}
            cell = found["forget"] * cell + found["input"] * found["candidate"]
            hidden = found["output"] * cell.tanh()
        elif kind == "GRU":
            (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
            found = {"reset": (ar + br).sigmoid(), "update": (az + bz).sigmoid()}
            found["candidate"] = (an + found["reset"] * bn).tanh()
            hidden = (1 - found["update"]) * found["candidate"] + found["update"] * hidden
        else:
            hidden = (a + b).tanh()
            found = {"state": hidden}
        for name, values in {**found, "hidden": hidden}.items():
            told.setdefault(name, []).append(values)
    return {name: torch.stack(values) for name, values in told.items()}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_gates_of_every_layer_and_direction(kind: str, with_state: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    module = getattr(nn, kind)(5, 4, num_layers=2, bidirectional=True, batch_first=batch_first).double()
    inputs = torch.randn(7, 3, 5, dtype=torch.float64)
    hidden, cell = torch.zeros(2, 4, 3, 4, dtype=torch.float64)
    if with_state:
        hidden, cell = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    given = (inputs.transpose(0, 1) if batch_first else inputs,)
    if with_state:
        given = (*given, (hidden, cell) if kind == "LSTM" else hidden)
    found = {name: values for name, _, values in gates(module, given, module(*given)[0])}
    below = inputs
    for layer in range(2):
        above = []
        for direction, suffix in enumerate((f"_l{layer}", f"_l{layer}_reverse")):
            weights = [getattr(module, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            place = 2 * layer + direction
            ordered = below.flip(0) if direction else below
            right = step_by_step(kind, weights, ordered, hidden[place], cell[place])
            right = {name: values.flip(0) if direction else values for name, values in right.items()}
            above.append(right.pop("hidden"))
            for name, values in right.items():
                values = values.transpose(0, 1) if batch_first else values
                torch.testing.assert_close(found.pop(name + suffix), values)
        below = torch.cat(above, -1)
    assert not found


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_gates_of_cells(kind: str) -> None:
    torch.manual_seed(0)
    module = getattr(nn, f"{kind}Cell")(5, 4).double()
    inputs, hidden, cell = (torch.randn(3, width, dtype=torch.float64) for width in (5, 4, 4))
    weights = [module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh]
    for state in (None, (hidden, cell) if kind == "LSTM" else hidden):
        before = (hidden, cell) if state is not None else (torch.zeros_like(hidden), torch.zeros_like(cell))
        right = step_by_step(kind, weights, inputs[None], *before)
        found = {name: values for name, _, values in gates(module, (inputs, state), module(inputs, state)[0])}
        assert found.keys() == right.keys() - {"hidden"}
        for name, values in found.items():
            torch.testing.assert_close(values, right[name][0])


def test_projected_states_and_sequences_without_a_batch_or_biases() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(5, 6, num_layers=2, proj_size=2, bias=False).double()
    inputs = torch.randn(7, 5, dtype=torch.float64)
    output, (_, cells) = module(inputs)
    found = {name: values for name, _, values in gates(module, (inputs,), output)}
    cell = torch.zeros(6, dtype=torch.float64)
    for step in range(7):
        cell = found["forget_l1"][step] * cell + found["input_l1"][step] * found["candidate_l1"][step]
        assert torch.allclose((found["output_l1"][step] * cell.tanh()) @ module.weight_hr_l1.T, output[step])
    assert torch.allclose(cell, cells[1])


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_gates_of_packed_sequences_are_those_of_each_sequence_alone(kind: str, with_state: bool) -> None:
    torch.manual_seed(0)
    module = getattr(nn, kind)(5, 4, num_layers=2, bidirectional=True, batch_first=True).double()
    sequences = [torch.randn(length, 5, dtype=torch.float64) for length in (2, 4, 1, 3)]
    states = torch.randn(2, 4, 4, 4, dtype=torch.float64)

    def initial(part: slice) -> tuple[Any, ...]:
        hidden, cell = (each[:, part].contiguous() for each in states)
        return ((hidden, cell) if kind == "LSTM" else hidden,) if with_state else ()

    given = (nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False), *initial(slice(None)))
    found = {name: values for name, _, values in gates(module, given, module(*given)[0])}
    right: dict[str, list[Tensor]] = {}
    for place, sequence in enumerate(sequences):
        alone = (sequence[None], *initial(slice(place, place + 1)))
        for name, _, values in gates(module, alone, module(*alone)[0]):
            right.setdefault(name, []).append(values[0])
    assert found.keys() == right.keys()
    for name, values in found.items():
        steps = torch.stack([value[step] for step in range(4) for value in right[name] if step < len(value)])
        torch.testing.assert_close(values, steps)


def test_gates_are_recorded_with_the_share_that_is_saturated() -> None:
    class Named(Everything):
        """Gives the LSTM its inputs by name."""

        def forward(self, images: Tensor, words: Tensor) -> Tensor:
            states, _ = self.lstm(input=20 * self.words(words))
            kept.append((20 * self.words(words), states))
            return self.head(self.joined(torch.cat([images.new_zeros(len(images), 24), states[:, -1]], 1)))

    kept: list[tuple[Tensor, Tensor]] = []
    records: list[dict[str, Any]] = []
    module = Named()
    trainer(ActivationStatistics(write=records.append), max_steps=1).fit(module, data())
    layer = records[0]["layers"]["lstm/forget_l0"]
    assert layer["type"] == "gate" and sum(layer["histogram"]) == 8 * 5 * 8
    assert {f"lstm/{name}_l0" for name in ("input", "forget", "candidate", "output")} < records[0]["layers"].keys()
    assert 0 < layer["saturated"] < 1 and 0 <= layer["min"] < layer["max"] <= 1


def test_packed_sequences_are_recorded_without_their_padding() -> None:
    class Packed(Everything):
        def forward(self, images: Tensor, words: Tensor) -> Tensor:
            lengths = torch.tensor([5, 4, 3, 3, 2, 2, 1, 1])
            packed = nn.utils.rnn.pack_padded_sequence(self.words(words), lengths, batch_first=True)
            _, (states, _) = self.lstm(hx=None, input=packed)
            return self.head(self.joined(torch.cat([images.new_zeros(len(images), 24), states[-1]], 1)))

    records: list[dict[str, Any]] = []
    trainer(ActivationStatistics(write=records.append), max_steps=1).fit(Packed(), data())
    layers = records[0]["layers"]
    assert sum(layers["lstm"]["histogram"]) == sum(layers["lstm/forget_l0"]["histogram"]) == (5 + 4 + 3 + 3 + 2 + 2 + 1 + 1) * 8
