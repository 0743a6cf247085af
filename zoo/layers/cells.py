"""Recurrent layers written out step by step, to look inside: torch's ``nn.RNN`` and ``nn.LSTM`` with nothing hidden.

Parameters have torch's names and layout, so a state dict goes either way, and the same weights give the same outputs. Torch's are
faster, and the ones to train with.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

State = Tensor | tuple[Tensor, Tensor]  # h, or h and c, each [layers, N, hidden]
Activations = dict[str, Tensor]  # each [layers, N, T, hidden]


class ReadableRecurrent(nn.Module):
    """What the layers here share: torch's parameters and torch's way to be called, with ``batch_first=True``.

    For layer 0, and so on for those above, whose input is the h of the layer below:

        weight_ih_l0   [sums * hidden, input_size]      drawn as torch draws them: uniform, up to 1 / sqrt(hidden)
        weight_hh_l0   [sums * hidden, hidden]
        bias_ih_l0     [sums * hidden]
        bias_hh_l0     [sums * hidden]

    Args:
        input_size: numbers in each step of the input.
        hidden_size: units of each layer.
        sums: weighted sums that each unit takes at a step.
    """

    batch_first = True
    bidirectional = False

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, sums: int) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = hidden_size, num_layers
        rows, bound = sums * hidden_size, 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            columns = hidden_size if layer else input_size
            shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, hidden_size), "bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in shapes.items():
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def weighted_sums(self, layer: int, below: Tensor, hidden: Tensor) -> Tensor:
        """W_ih x + b_ih + W_hh h + b_hh of one layer at one step, [N, sums * hidden], for x [N, inputs] and h [N, hidden]."""
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return below @ weight_ih.T + bias_ih + hidden @ weight_hh.T + bias_hh

    def zeros(self, input: Tensor) -> Tensor:
        """What h is before the first step, [layers, N, hidden]."""
        return input.new_zeros(self.num_layers, len(input), self.hidden_size)

    def forward(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs and the state to go on from, as ``look_inside`` gives them."""
        output, state, _ = self.look_inside(input, state)
        return output, state

    def look_inside(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State, Activations]:
        """Outputs of the last layer [N, T, hidden], the state after the last step, and all activations.

        Args:
            input: [N, T, input_size].
            state: that before the first step; zeros unless given.
        """
        raise NotImplementedError


class ReadableRNN(ReadableRecurrent):
    """The vanilla recurrent network (Elman 1990, "Finding structure in time"), as ``nn.RNN``.

    A layer carries a hidden state h from step to step:

        h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh)

    Args:
        nonlinearity: ``tanh``, or ``relu`` in its place.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: Literal["tanh", "relu"] = "tanh"
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, sums=1)
        self.nonlinearity = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]

    def look_inside(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Activations]:
        """Outputs [N, T, hidden], the state h [layers, N, hidden], and ``h`` at every step."""
        hidden = list(self.zeros(input) if state is None else state)
        steps: list[Tensor] = []
        for below in input.unbind(1):
            for layer in range(self.num_layers):
                hidden[layer] = below = self.nonlinearity(self.weighted_sums(layer, below, hidden[layer]))
            steps.append(torch.stack(hidden))
        activations = torch.stack(steps, 2)
        return activations[-1], steps[-1], {"h": activations}


class ReadableLSTM(ReadableRecurrent):
    """The LSTM (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000), as ``nn.LSTM``.

    Beside the hidden state h a layer carries a cell c, which changes by a product and a sum:

        i = sigmoid(W_ii x[t] + b_ii + W_hi h[t-1] + b_hi)      input gate: how much to write
        f = sigmoid(W_if x[t] + b_if + W_hf h[t-1] + b_hf)      forget gate: how much to keep
        g =    tanh(W_ig x[t] + b_ig + W_hg h[t-1] + b_hg)      what to write
        o = sigmoid(W_io x[t] + b_io + W_ho h[t-1] + b_ho)      output gate: how much to show
        c[t] = f * c[t-1] + i * g
        h[t] = o * tanh(c[t])

    ``weight_ih`` holds W_ii, W_if, W_ig and W_io on top of each other, and so do the others. Along the cell a gradient is
    multiplied by f at each step, and by no weights and no slope of a tanh: with f near 1 it lasts.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers, sums=4)

    def look_inside(
        self, input: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Activations]:
        """Outputs [N, T, hidden], the state h and c, each [layers, N, hidden], and ``i f g o c h`` at every step."""
        hidden, cell = map(list, (self.zeros(input), self.zeros(input)) if state is None else state)
        steps: list[Tensor] = []
        for below in input.unbind(1):
            layers: list[Tensor] = []
            for layer in range(self.num_layers):
                i, f, g, o = self.weighted_sums(layer, below, hidden[layer]).chunk(4, dim=1)
                i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
                cell[layer] = f * cell[layer] + i * g
                hidden[layer] = below = o * cell[layer].tanh()
                layers.append(torch.stack((i, f, g, o, cell[layer], hidden[layer])))
            steps.append(torch.stack(layers, 1))
        activations = dict(zip("ifgoch", torch.stack(steps, 3), strict=True))
        return activations["h"][-1], (torch.stack(hidden), torch.stack(cell)), activations
