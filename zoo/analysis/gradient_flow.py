"""Gradient norms through time: at the state of a recurrent network k steps before the loss.

In a vanilla RNN each step multiplies the gradient by the recurrent weights and the derivative of the nonlinearity, so it vanishes
or explodes exponentially in k (Bengio et al. 1994; Pascanu et al. 2013); along the cell state of an LSTM each step multiplies it
only by the forget gate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

STATES = ("h", "c")


def gradient_norms(network: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Norms of the gradient of a loss at the last step with respect to the state k steps before it.

    The norm is over all layers and samples. With two states, h and c, the loss is a function of both: the effect of c on the h of
    the same step is not counted.

    Args:
        network: unidirectional and batch first ``nn.RNN``, ``nn.GRU``, ``nn.LSTM`` or layer of ``zoo.layers.cells``. It is not
            modified: a float64 copy on the CPU is evaluated, without dropout.
        inputs: embedded, [N, T, features].
        loss: maps the output of the last step, [N, hidden], to a scalar.

    Returns:
        ``h`` and, for an LSTM, ``c``: float64 [T - 1] each, for k from 1 to T - 1.

    Raises:
        ValueError: the network is bidirectional or not batch first, or there are fewer than two steps.
    """
    if network.bidirectional or not network.batch_first:
        raise ValueError("the network must be batch first, and run in one direction")
    if inputs.shape[1] < 2:
        raise ValueError(f"inputs of {inputs.shape[1]} steps have no earlier state")
    # float32 would underflow; frozen parameters would leave the first states without gradients
    network = copy.deepcopy(network).to("cpu", torch.float64).eval().requires_grad_()
    states: list[tuple[Tensor, ...]] = []
    with torch.enable_grad():
        state = None
        for step in inputs.detach().to("cpu", torch.float64).split(1, dim=1):
            output, state = network(step, state)
            states.append(state if isinstance(state, tuple) else (state,))
        earlier = states[-2::-1]  # from the nearest on
        gradients = torch.autograd.grad(loss(output[:, -1]), [part for parts in earlier for part in parts])
    norms = torch.stack([gradient.norm() for gradient in gradients]).view(len(earlier), -1)
    return dict(zip(STATES, norms.unbind(1), strict=False))
