"""The distillation loss held against the formula of the paper, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.optim.distillation import distillation_loss

ALL = torch.tensor([True, True])
STUDENT, TEACHER = [[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], [[2.0, 0.0, -1.0], [0.5, 0.5, 4.0]]


def probabilities(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_divergence_of_softened_probabilities_times_the_squared_temperature(temperature: float) -> None:
    expected = 0.0
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        pairs = zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True)
        expected += sum(p * math.log(p / q) for q, p in pairs) / 2
    loss = distillation_loss(torch.tensor(STUDENT).double(), torch.tensor(TEACHER), temperature, ALL)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(temperature**2 * expected, rel=1e-6)


def test_at_high_temperature_the_gradient_is_that_of_the_squared_difference_of_centered_logits() -> None:
    """Equation 4 of the paper, times the squared temperature and for the mean over two samples."""
    student, teacher = (torch.tensor(each, dtype=torch.float64) for each in (STUDENT, TEACHER))
    student.requires_grad_()
    distillation_loss(student, teacher, 1e4, ALL).backward()
    centered = [each - each.mean(1, keepdim=True) for each in (student.detach(), teacher)]
    torch.testing.assert_close(student.grad, (centered[0] - centered[1]) / 3 / 2, rtol=1e-3, atol=1e-4)


def test_samples_that_do_not_count_and_classes_without_probability_leave_the_rest_alone() -> None:
    student, teacher = torch.tensor(STUDENT), torch.tensor(TEACHER)
    first = distillation_loss(student[:1], teacher[:1], 2.0, ALL[:1])
    assert distillation_loss(student, teacher, 2.0, torch.tensor([True, False])).item() == pytest.approx(first.item())
    assert distillation_loss(student, teacher, 2.0, ~ALL).item() == 0
    sure = torch.tensor([[0.0, -math.inf, -math.inf]])
    loss = distillation_loss(student[:1], sure, 1.0, ALL[:1])
    assert loss.item() == pytest.approx(-math.log(probabilities(STUDENT[0], 1.0)[0]))
    half = distillation_loss(student.bfloat16(), teacher.bfloat16(), 4.0, ALL)
    assert half.dtype == torch.float32, "half precision is not for small differences"
