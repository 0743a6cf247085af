"""How much of a gradient comes back through time: its norm at the state of a recurrent network, k steps before the loss.

In a vanilla network each step multiplies the gradient by the recurrent weights and the slopes of the nonlinearity, so that it
vanishes or explodes as a power of k (Bengio et al. 1994; Pascanu et al. 2013); in an LSTM there is a way along the cell where
each step multiplies it by the forget gate alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

STATES = ("h", "c")


def gradient_norms(network: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Norms of the gradient of a loss at the last step with respect to the state that was handed on k steps before it.

    The state is that of all layers and samples together. Where it has two parts, h and c, the gradient is that of the loss as a
    function of both: what c does to the h beside it, before they are handed on, is not counted.

    Args:
        network: ``nn.RNN``, ``nn.GRU``, ``nn.LSTM`` or a layer of ``zoo.layers.cells``, from left to right and batch first. A
            copy in float64 on the CPU computes, without dropout; the network and its gradients are left as they are.
        inputs: embedded, [N, T, features].
        loss: takes the output of the last step, [N, hidden], to one number.

    Returns:
        ``h`` and, for an LSTM, ``c``: float64 [T - 1] each, for k from 1 to T - 1.

    Raises:
        ValueError: the network is bidirectional or not batch first, or there are fewer than two steps.
    """
    if network.bidirectional or not network.batch_first:
        raise ValueError("the network must be batch first, and run in one direction")
    if inputs.shape[1] < 2:
        raise ValueError(f"there is nothing before the last step in inputs of {inputs.shape[1]} steps")
    # small gradients fall below the range of float32; parameters that are frozen would leave the first states without any
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
