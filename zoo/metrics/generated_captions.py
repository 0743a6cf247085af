"""Generated captions, gathered from all processes for corpus-level metrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

NONE = -1  # index of a sample that does not count


class GeneratedCaptions(Metric):
    """Image indices and the caption of each as word indices, in the order of the images."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("captions", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, captions: Tensor, counted: Tensor) -> None:
        """Update with ``captions``, int64 [n, T], of ``images``, int64 [n], where the mask ``counted``, bool [n], is true."""
        # samples that do not count are kept too: gathering needs an entry from each process
        self.images.append(torch.where(counted, images, NONE))
        self.captions.append(captions)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Image indices, ascending, and their captions."""
        images, captions = dim_zero_cat(self.images), dim_zero_cat(self.captions)
        order = images.argsort()
        order = order[images[order] != NONE]
        return images[order], captions[order]
