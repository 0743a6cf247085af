"""Plans of what is trained when, against what they say."""

from __future__ import annotations

import pytest

from zoo.config.freezing import Freezing
from zoo.core.errors import UserError

STAGES = ("stem", "layer1", "layer2", "head")


@pytest.mark.parametrize(
    ("text", "frozen_by_epoch"),
    [
        ("none", [(), (), ()]),
        ("backbone", [("stem", "layer1", "layer2")] * 3),
        ("until:layer1", [("stem", "layer1")] * 3),
        ("epochs:2", [("stem", "layer1", "layer2")] * 2 + [()]),
        ("epochs:1+2", [("stem", "layer1", "layer2"), *[("stem", "layer1")] * 2, *[("stem",)] * 2, ()]),
    ],
)
def test_a_plan_freezes_what_it_says_in_every_epoch(text: str, frozen_by_epoch: list[tuple[str, ...]]) -> None:
    plan = Freezing.parse(text)
    assert [plan.frozen(STAGES, epoch) for epoch in range(len(frozen_by_epoch))] == frozen_by_epoch
    assert plan.changes == (len(set(frozen_by_epoch)) > 1)


@pytest.mark.parametrize("text", ["", "all", "until:", "epochs", "epochs:0", "epochs:1+0", "epochs:1.5", "epochs:-1"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be none, backbone, until:STAGE"):
        Freezing.parse(text)


def test_a_plan_in_another_case_gets_its_name() -> None:
    with pytest.raises(ValueError, match="; did you mean 'backbone'?"):
        Freezing.parse("Backbone")


@pytest.mark.parametrize(
    ("text", "epochs", "message"),
    [
        ("until:layer", 5, "no stage 'layer': did you mean 'layer2' or 'layer1'"),
        ("until:head", 5, "head is the head, which is always trained: write backbone"),
        ("epochs:5", 5, "ends after 5 epochs, before anything is unfrozen"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(text: str, epochs: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Freezing.parse(text).check(STAGES, epochs)
