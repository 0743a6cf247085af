"""The loss of knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, counted: Tensor) -> Tensor:
    """T^2 KL(teacher || student) of probabilities at temperature T, the mean over the samples that count, a 0-d tensor.

    At a higher temperature the small probabilities of wrong classes, which say what the teacher finds alike, count for more. The
    factor T^2 keeps gradients as large as those of the loss on labels (section 2).

    Args:
        student, teacher: logits, [N, classes].
        counted: bool [N].
    """
    student = student.to(torch.promote_types(student.dtype, torch.float32))  # from half precision
    expected = (teacher.to(student.dtype) / temperature).softmax(1)
    divergence = F.kl_div((student / temperature).log_softmax(1), expected, reduction="none").sum(1)
    return temperature**2 * divergence.where(counted, 0).sum() / counted.sum().clamp(min=1)
