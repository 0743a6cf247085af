"""L-BFGS for weights in any memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LBFGS(torch.optim.LBFGS):
    """``torch.optim.LBFGS``, which takes gradients as flat views, that convolutions in channels_last do not have."""

    def step(self, closure: Callable[[], Any]) -> Any:
        def with_contiguous_gradients() -> Any:
            loss = closure()
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad = parameter.grad.contiguous()
            return loss

        return super().step(with_contiguous_gradients)
