"""The readable cells: torch's outputs, states and gradients from torch's weights; and weights that are worked by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from zoo.layers.cells import ReadableLSTM, ReadableRNN

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
KINDS = {
    "tanh": (ReadableRNN, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (ReadableRNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (ReadableLSTM, nn.LSTM, {}),
}
INPUT, HIDDEN, SAMPLES, STEPS = 3, 5, 4, 7


def pair(kind: str, layers: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, with the same weights."""
    ours_class, torch_class, options = KINDS[kind]
    torch.manual_seed(layers)
    theirs = torch_class(INPUT, HIDDEN, layers, batch_first=True, **options).to(dtype)
    ours = ours_class(INPUT, HIDDEN, layers, **options).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def draw(kind: str, layers: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    """An input, and the tensors of a state."""
    torch.manual_seed(17)
    state = [torch.randn(layers, SAMPLES, HIDDEN, dtype=dtype) for _ in range(2 if kind == "lstm" else 1)]
    return torch.randn(SAMPLES, STEPS, INPUT, dtype=dtype), state


def packed(state: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """A state as a layer takes it."""
    return state[0] if len(state) == 1 else tuple(state)


def unpacked(state: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def everything(network: nn.Module, inputs: Tensor, state: list[Tensor] | None) -> list[Tensor]:
    """Outputs, final state, and the gradients of inputs, given state and all parameters in the order of their names."""
    leaves = [tensor.clone().requires_grad_() for tensor in (inputs, *(state or []))]
    output, last = network(leaves[0], packed(leaves[1:]) if state else None)
    results = [output, *unpacked(last)]
    generator = torch.Generator().manual_seed(5)  # a loss to which every number of every result counts for something else
    loss = sum((result * torch.randn(result.shape, generator=generator, dtype=result.dtype)).sum() for result in results)
    parameters = [parameter for _, parameter in sorted(network.named_parameters())]
    return [result.detach() for result in results] + list(torch.autograd.grad(loss, [*leaves, *parameters]))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_states_and_gradients_are_those_of_torch(kind: str, layers: int, with_state: bool, dtype: torch.dtype) -> None:
    inputs, state = draw(kind, layers, dtype)
    ours, theirs = (everything(network, inputs, state if with_state else None) for network in pair(kind, layers, dtype))
    assert len(ours) == len(theirs) == 1 + len(state) + 1 + with_state * len(state) + 4 * layers
    for mine, reference in zip(ours, theirs, strict=True):
        assert reference.abs().max() > 0
        # gradients are sums over samples and steps, whose rounding grows with their size
        largest = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(mine, reference, rtol=0, atol=TOLERANCE[dtype] * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_go_either_way_and_start_as_torch_starts_them(kind: str) -> None:
    ours_class, torch_class, options = KINDS[kind]
    torch.manual_seed(3)
    theirs = torch_class(INPUT, HIDDEN, 2, batch_first=True, **options)
    torch.manual_seed(3)
    ours = ours_class(INPUT, HIDDEN, 2, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    inputs, _ = draw(kind, 2, torch.float32)
    torch.testing.assert_close(theirs(inputs)[0], ours(inputs)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_carried_over_chunks_is_one_piece(kind: str) -> None:
    network, _ = pair(kind, 2)
    inputs, state = draw(kind, 2)
    whole, last = network(inputs, packed(state))
    parts, carried = [], packed(state)
    for chunk in inputs.split([1, 4, 2], dim=1):
        output, carried = network(chunk, carried)
        parts.append(output)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert all(torch.equal(a, b) for a, b in zip(unpacked(carried), unpacked(last), strict=True))


def test_the_activations_inside_obey_the_equations() -> None:
    network, _ = pair("lstm", 2)
    inputs, state = draw("lstm", 2)
    output, (hidden, cell), inside = network.forward_with_activations(inputs, packed(state))
    assert set(inside) == set("ifgoch") and all(value.shape == (2, SAMPLES, STEPS, HIDDEN) for value in inside.values())
    assert torch.equal(output, inside["h"][-1])
    assert torch.equal(hidden, inside["h"][:, :, -1]) and torch.equal(cell, inside["c"][:, :, -1])
    former_cells = torch.cat((state[1][:, :, None], inside["c"][:, :, :-1]), 2)
    torch.testing.assert_close(inside["c"], inside["f"] * former_cells + inside["i"] * inside["g"])
    torch.testing.assert_close(inside["h"], inside["o"] * inside["c"].tanh())
    # the gates of the upper layer, from their own block of torch's weights
    former = torch.cat((state[0][1, :, None], inside["h"][1, :, :-1]), 1)
    for gate, squash, number in (("i", torch.sigmoid, 0), ("f", torch.sigmoid, 1), ("g", torch.tanh, 2), ("o", torch.sigmoid, 3)):
        rows = slice(number * HIDDEN, (number + 1) * HIDDEN)
        sums = inside["h"][0] @ network.weight_ih_l1[rows].T + former @ network.weight_hh_l1[rows].T
        torch.testing.assert_close(inside[gate][1], squash(sums + network.bias_ih_l1[rows] + network.bias_hh_l1[rows]))


def test_the_hidden_states_inside_a_vanilla_network_are_its_outputs() -> None:
    network, _ = pair("tanh", 3)
    inputs, _ = draw("tanh", 3)
    output, last, inside = network.forward_with_activations(inputs)
    assert inside["h"].shape == (3, SAMPLES, STEPS, HIDDEN)
    assert torch.equal(inside["h"][-1], output) and torch.equal(inside["h"][:, :, -1], last)


# ---------------------------------------------------------------------------------------------- weights worked by hand


def detector_of_two_ones() -> dict[str, Tensor]:
    """Weights of a network of two ReLU units that tells, at each step, whether this input and the one before are both 1.

    The first unit copies the input, relu(1 * x[t]) = x[t], and so is the memory of the next step. The second adds the input and
    that memory and takes 1 away, relu(1 * x[t] + 1 * h1[t-1] - 1). Of the four sums only 1 + 1 is above 1, and it leaves 1: the
    output is 1 exactly when both are. The state starts at zero, as if a 0 had come before.
    """
    return {
        "weight_ih_l0": torch.tensor([[1.0], [1.0]]),
        "weight_hh_l0": torch.tensor([[0.0, 0.0], [1.0, 0.0]]),
        "bias_ih_l0": torch.tensor([0.0, -1.0]),
        "bias_hh_l0": torch.zeros(2),
    }


@pytest.mark.parametrize(
    "network",
    [ReadableRNN(1, 2, nonlinearity="relu"), nn.RNN(1, 2, nonlinearity="relu", batch_first=True)],
    ids=["ours", "torch"],
)
def test_two_units_detect_two_ones_in_a_row(network: nn.Module) -> None:
    network.load_state_dict(detector_of_two_ones(), strict=True)
    every_string_of_eight = torch.tensor(list(itertools.product([0, 1], repeat=8)))
    long_ones = torch.randint(0, 2, (50, 40), generator=torch.Generator().manual_seed(0))
    for bits in (every_string_of_eight, long_ones):
        copied, detected = network(bits[:, :, None].float())[0].unbind(2)
        expected = [[int(a == b == 1) for a, b in zip([0, *row], row, strict=False)] for row in bits.tolist()]
        assert detected.tolist() == expected and torch.equal(copied, bits.float())
