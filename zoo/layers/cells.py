"""``nn.RNN`` and ``nn.LSTM`` written out step by step, with access to all activations.

Parameters have torch's names and layout, and the same weights give the same outputs. For training torch's are faster.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

State = Tensor | tuple[Tensor, Tensor]  # h, or h and c, each [layers, N, hidden]
Activations = dict[str, Tensor]  # each [layers, N, T, hidden]


class ReadableRecurrent(nn.Module):
    """Base of the recurrent layers: parameters and interface of torch with ``batch_first=True``.

    For layer 0, and likewise for those above, whose input is the h of the layer below:

        weight_ih_l0   [sums * hidden, input_size]      initialized as in torch: uniform, up to 1 / sqrt(hidden)
        weight_hh_l0   [sums * hidden, hidden]
        bias_ih_l0     [sums * hidden]
        bias_hh_l0     [sums * hidden]

    Args:
        input_size: input features at each step.
        hidden_size: dimensions of the hidden state.
        num_layers: stacked layers.
        sums: weighted sums of each unit at a step: 1, or 4 in an LSTM.
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
        """Initial h, [layers, N, hidden]."""
        return input.new_zeros(self.num_layers, len(input), self.hidden_size)

    def forward(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs and last state, as ``forward_with_activations`` returns them."""
        output, state, _ = self.forward_with_activations(input, state)
        return output, state

    def forward_with_activations(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State, Activations]:
        """Outputs of the last layer [N, T, hidden], the state after the last step, and all activations.

        Args:
            input: [N, T, input_size].
            state: initial state, by default zeros.
        """
        raise NotImplementedError


class ReadableRNN(ReadableRecurrent):
    """Vanilla RNN (Elman 1990, "Finding structure in time"), as ``nn.RNN``.

    The hidden state h of a layer:

        h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh)

    Args:
        nonlinearity: ``tanh`` or ``relu``.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: Literal["tanh", "relu"] = "tanh"
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, sums=1)
        self.nonlinearity = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]

    def forward_with_activations(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Activations]:
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
    """LSTM (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000), as ``nn.LSTM``.

    A layer has a hidden state h and a cell state c:

        i = sigmoid(W_ii x[t] + b_ii + W_hi h[t-1] + b_hi)      input gate
        f = sigmoid(W_if x[t] + b_if + W_hf h[t-1] + b_hf)      forget gate
        g =    tanh(W_ig x[t] + b_ig + W_hg h[t-1] + b_hg)      cell candidate
        o = sigmoid(W_io x[t] + b_io + W_ho h[t-1] + b_ho)      output gate
        c[t] = f * c[t-1] + i * g
        h[t] = o * tanh(c[t])

    ``weight_ih`` stacks W_ii, W_if, W_ig and W_io, and so do the others. Along the cell state a gradient is multiplied by f alone
    at each step: with f near 1 it does not vanish.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers, sums=4)

    def forward_with_activations(
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
