"""The captions that a network wrote in an evaluation, brought together from all processes: figures of captions need them all."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

NONE = -1  # in place of a picture: nothing was written


class WrittenCaptions(Metric):
    """Pictures by their numbers, and the caption of each as places in a vocabulary, in the order of the pictures."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pictures", [], dist_reduce_fx="cat")
        self.add_state("captions", [], dist_reduce_fx="cat")

    def update(self, pictures: Tensor, captions: Tensor, counted: Tensor) -> None:
        """Take in ``captions``, int64 [n, T], of ``pictures``, int64 [n], where ``counted``, bool [n], says so."""
        # what does not count is taken in as well: no process may come with empty hands when they gather
        self.pictures.append(torch.where(counted, pictures, NONE))
        self.captions.append(captions)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The pictures, ascending, and the caption of each."""
        pictures, captions = dim_zero_cat(self.pictures), dim_zero_cat(self.captions)
        order = pictures.argsort()
        order = order[pictures[order] != NONE]
        return pictures[order], captions[order]
