"""Gates of torch's recurrent layers, recomputed from their inputs and outputs, as fused kernels do not return them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

LAYERS, CELLS = (nn.LSTM, nn.GRU, nn.RNN), (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
RECURRENT = (*LAYERS, *CELLS)
State = Tensor | tuple[Tensor, Tensor] | None


def gates(module: nn.RNNBase | nn.RNNCellBase, inputs: tuple[Any, ...], output: Any) -> Iterator[tuple[str, str, Tensor]]:
    """Yield name, activation function (``sigmoid``, ``tanh`` or ``relu``) and values [..., hidden] of each gate.

    Names are ``input``, ``forget``, ``candidate`` and ``output`` of an LSTM, ``reset``, ``update`` and ``candidate`` of a GRU,
    and ``state`` of a plain recurrent network. In multi-layer modules they have the suffix of torch's parameters, as in
    ``_l0`` or ``_l1_reverse``. Upper layers are computed without the dropout between layers. Of packed sequences the values are
    [steps of all sequences, hidden].

    Args:
        inputs: positional arguments of the call: sequences (or one step), and the initial state if it was passed.
        output: the first output of the call.
    """
    sequences, state = (*inputs, None)[:2]
    with torch.no_grad():
        if isinstance(module, CELLS):
            before = state if isinstance(state, Tensor) or state is None else state[0]
            before = sequences.new_zeros(*sequences.shape[:-1], module.hidden_size) if before is None else before
            yield from _named(module, "", sequences, before)
        elif isinstance(module, nn.RNNBase):
            yield from _of_layers(module, sequences, state, output)


def _of_layers(
    module: nn.RNNBase, below: Tensor | PackedSequence, state: State, output: Tensor | PackedSequence
) -> Iterator[tuple[str, str, Tensor]]:
    directions = 2 if module.bidirectional else 1
    for layer in range(module.num_layers):
        is_last = layer == module.num_layers - 1
        above = output if is_last else _layer_alone(module, layer, below, state)
        (inputs, lengths), (outputs, _) = _padded(module, below), _padded(module, above)
        steps = torch.arange(len(inputs), device=inputs.device)
        for direction, states in enumerate(outputs.chunk(directions, -1)):
            start = states.new_zeros(states.shape[1:])
            if state is not None:
                start = (state if isinstance(state, Tensor) else state[0])[directions * layer + direction].to(states.dtype)
            before = torch.cat([states[1:], start[None]] if direction else [start[None], states[:-1]])
            if lengths is not None and direction:  # each sequence starts at its own end
                before = torch.where((steps[:, None] == lengths - 1)[..., None], start, before)
            for name, function, values in _named(module, f"_l{layer}" + "_reverse" * direction, inputs, before):
                if lengths is not None:
                    values = values[steps[:, None] < lengths]
                yield name, function, values.transpose(0, 1) if _is_batch_first(module, below) else values
        below = above


def _padded(module: nn.RNNBase, sequences: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
    """Sequences with the steps first, and the lengths of packed ones."""
    if isinstance(sequences, PackedSequence):
        values, lengths = pad_packed_sequence(sequences)
        return values, lengths.to(values.device)
    return sequences.transpose(0, 1) if _is_batch_first(module, sequences) else sequences, None


def _is_batch_first(module: nn.RNNBase, sequences: Tensor | PackedSequence) -> bool:
    return module.batch_first and isinstance(sequences, Tensor) and sequences.dim() == 3


def _layer_alone(module: nn.RNNBase, layer: int, below: Tensor | PackedSequence, state: State) -> Tensor | PackedSequence:
    """The outputs of one of several layers."""
    directions = 2 if module.bidirectional else 1
    options: dict[str, Any] = {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    if isinstance(module, nn.RNN):
        options = {"nonlinearity": module.nonlinearity}
    cls: Any = type(module)
    width = (below.data if isinstance(below, PackedSequence) else below).shape[-1]
    alone = cls(
        width, module.hidden_size, bias=module.bias, batch_first=module.batch_first,
        bidirectional=module.bidirectional, device="meta", **options,
    )  # fmt: skip
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    weights = {name: own[name.replace("_l0", f"_l{layer}")] for name, _ in alone.named_parameters()}
    if state is not None:
        part = slice(directions * layer, directions * (layer + 1))
        state = state[part] if isinstance(state, Tensor) else (state[0][part], state[1][part])
    output: Tensor | PackedSequence = torch.func.functional_call(alone, weights, (below, state))[0]
    return output


def _named(module: nn.Module, suffix: str, below: Tensor, before: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """The gates of one layer, from the input and the state before each step."""
    weight_ih, weight_hh = (getattr(module, f"weight_{name}{suffix}") for name in ("ih", "hh"))
    bias_ih, bias_hh = (getattr(module, f"bias_{name}{suffix}", None) for name in ("ih", "hh"))
    from_input, from_state = F.linear(below, weight_ih, bias_ih), F.linear(before, weight_hh, bias_hh)
    match module:
        case nn.LSTM() | nn.LSTMCell():
            sums = (from_input + from_state).chunk(4, -1)
            functions = {"input": "sigmoid", "forget": "sigmoid", "candidate": "tanh", "output": "sigmoid"}
        case nn.GRU() | nn.GRUCell():
            (reset, update, new), (reset_h, update_h, new_h) = from_input.chunk(3, -1), from_state.chunk(3, -1)
            reset = reset + reset_h
            sums = (reset, update + update_h, new + reset.sigmoid() * new_h)
            functions = {"reset": "sigmoid", "update": "sigmoid", "candidate": "tanh"}
        case _:
            sums, functions = (from_input + from_state,), {"state": str(module.nonlinearity)}
    for (name, function), values in zip(functions.items(), sums, strict=True):
        yield f"{name}{suffix}", function, getattr(torch, function)(values)
