"""Learning rate schedules held against torch's, at every step."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from zoo.config.recipe import Recipe
from zoo.optim.schedules import lr_factor

LENGTHS = [1, 2, 3, 4, 7, 10, 100, 333]


def torch_factors(total: int, make) -> list[float]:
    """What torch's scheduler gives for a learning rate of 1 at each of ``total`` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, factors = make(optimizer), []
    for step in range(total):
        optimizer.step()
        if step:
            schedule.step()
        factors.append(optimizer.param_groups[0]["lr"])
    return factors


def our_factors(total: int, **settings) -> list[float]:
    factor = lr_factor(Recipe(**settings), total)
    return [factor(step) for step in range(total)]


@pytest.mark.parametrize("total", LENGTHS)
def test_one_cycle_equals_torch(total):
    def one_cycle(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False, anneal_strategy="cos")

    assert our_factors(total, schedule="one-cycle") == pytest.approx(torch_factors(total, one_cycle), rel=1e-9)


@pytest.mark.parametrize("total", LENGTHS)
def test_cosine_equals_torch(total):
    expected = torch_factors(total, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=total))
    assert our_factors(total, schedule="cosine") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("total", LENGTHS)
@pytest.mark.parametrize(
    ("milestones", "gamma"), [((0.5, 0.75), 0.1), ((0.3, 0.6, 0.8), 0.2), ((), 0.1), ((0.55, 0.28, 0.07), 0.5)]
)
def test_multistep_equals_torch(total, milestones, gamma):
    # in whole percents, so that the first step at or after the share is exact
    steps = [-(-round(100 * share) * total // 100) for share in milestones]
    expected = torch_factors(total, lambda optimizer: lr_scheduler.MultiStepLR(optimizer, steps, gamma))
    ours = our_factors(total, schedule="multistep", milestones=milestones, gamma=gamma)
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("total", LENGTHS)
def test_constant_is_constant(total):
    assert our_factors(total, schedule="constant") == [1.0] * total


def test_warmup_rises_linearly_and_the_schedule_follows():
    total, rising = 100, 10  # 2 of 20 epochs
    constant, cosine, multistep = (
        our_factors(total, schedule=schedule, warmup_epochs=2, epochs=20) for schedule in ("constant", "cosine", "multistep")
    )
    for factors in (constant, cosine, multistep):
        assert factors[:rising] == pytest.approx([(step + 1) / 11 for step in range(rising)])
        assert factors[rising] == pytest.approx(1.0)
    assert constant[rising:] == [1.0] * 90
    assert cosine[rising:] == pytest.approx([(1 + math.cos(math.pi * step / 90)) / 2 for step in range(90)], abs=1e-12)
    assert multistep[rising:] == pytest.approx([1.0] * 40 + [0.1] * 25 + [0.01] * 25)


def test_one_cycle_has_a_warmup_of_its_own():
    assert our_factors(50, schedule="one-cycle", warmup_epochs=3, epochs=5) == our_factors(50, schedule="one-cycle")


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine", "one-cycle"])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_the_shortest_trainings_have_a_learning_rate_between_zero_and_its_peak(total, schedule, warmup):
    factor = lr_factor(Recipe(schedule=schedule, epochs=1, warmup_epochs=warmup), total)
    # torch's scheduler asks once more after the last step
    assert all(0 <= factor(step) <= 1 for step in range(total + 1))
    assert all(factor(step) > 0 for step in range(total))


@pytest.mark.parametrize("schedule", ["multistep", "cosine", "one-cycle"])
def test_a_factor_does_not_depend_on_what_was_asked_before(schedule):
    factor = lr_factor(Recipe(schedule=schedule), 40)
    forwards = [factor(step) for step in range(40)]
    assert [factor(step) for step in reversed(range(40))] == forwards[::-1]
    assert max(forwards) <= 1 and min(forwards) < 0.2
