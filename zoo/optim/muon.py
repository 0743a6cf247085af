"""Muon for the matrices of a network, with AdamW beside it for all other parameters, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class MuonWithAdamW(Optimizer):
    """``torch.optim.Muon``, which takes matrices alone, and ``torch.optim.AdamW`` for norms, biases and convolutions.

    Each group is split into its matrices and the rest, so schedules, weight decay and layer-wise rates apply to both parts.

    Args:
        options: of ``torch.optim.Muon``.
    """

    def __init__(self, params: list[dict], lr: float, **options: Any) -> None:
        groups = []
        for group in params:
            for matrices in (True, False):
                chosen = [parameter for parameter in group["params"] if (parameter.ndim == 2) == matrices]
                groups += [{**group, "params": chosen, "matrices": matrices}] if chosen else []
        # each part completes its own groups, and refuses what is out of range
        nothing = {"params": []}
        self.parts = {
            True: torch.optim.Muon([group for group in groups if group["matrices"]] or [nothing], lr, **options),
            False: torch.optim.AdamW([group for group in groups if not group["matrices"]] or [nothing], lr, fused=True),
        }
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and the state of the whole, where schedules and checkpoints find them."""
        for matrices, part in self.parts.items():
            part.param_groups = [group for group in self.param_groups if group["matrices"] == matrices]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:  # which replaces both when a checkpoint is loaded
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss
