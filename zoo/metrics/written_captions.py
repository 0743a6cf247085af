"""Generated captions, gathered from all processes for corpus-level metrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

NONE = -1  # index of a sample that does not count


class WrittenCaptions(Metric):
    """Image indices and the caption of each as word indices, in the order of the images."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pictures", [], dist_reduce_fx="cat")
        self.add_state("captions", [], dist_reduce_fx="cat")

    def update(self, pictures: Tensor, captions: Tensor, counted: Tensor) -> None:
        """Update with ``captions``, int64 [n, T], of ``pictures``, int64 [n], where the mask ``counted``, bool [n], is true."""
        # samples that do not count are kept too: gathering needs an entry from each process
        self.pictures.append(torch.where(counted, pictures, NONE))
        self.captions.append(captions)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Image indices, ascending, and their captions."""
        pictures, captions = dim_zero_cat(self.pictures), dim_zero_cat(self.captions)
        order = pictures.argsort()
        order = order[pictures[order] != NONE]
        return pictures[order], captions[order]
