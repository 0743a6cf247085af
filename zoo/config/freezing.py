"""Freezing plans: which stages of a network are trained in which epoch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.core.errors import UserError, did_you_mean, unknown

FORMS = "none, backbone, until:STAGE, epochs:N or epochs:N+M"


@dataclass(frozen=True)
class Freezing:
    """A freezing plan. The head, which is the last stage, is always trained.

    Attributes:
        text: the value of ``recipe.freeze``. ``none`` trains everything; ``backbone`` only the head; ``until:STAGE`` freezes that
            stage and those before it; ``epochs:N`` trains only the head for N epochs and then everything; ``epochs:N+M`` then
            unfreezes one more stage, from the head down, every M epochs (gradual unfreezing, Howard and Ruder 2018, section 3.3).
        until: last frozen stage.
        head_epochs: epochs in which only the head is trained.
        stage_epochs: epochs between two stages; 0 unfreezes all at once.
    """

    text: str
    until: str = ""
    head_epochs: int = 0
    stage_epochs: int = 0

    @classmethod
    def parse(cls, text: str) -> Freezing:
        """Parse a plan.

        Raises:
            ValueError: the text is not a plan.
        """
        if text in ("none", "backbone"):
            return cls(text)
        if found := re.fullmatch(r"until:(\S+)", text):
            return cls(text, until=found[1])
        if (found := re.fullmatch(r"epochs:(\d+)(?:\+(\d+))?", text)) and int(found[1]) and found[2] != "0":
            return cls(text, head_epochs=int(found[1]), stage_epochs=int(found[2] or 0))
        raise ValueError(f"must be {FORMS}{did_you_mean(text, ('none', 'backbone'))}")

    @property
    def changes(self) -> bool:
        """Whether what is frozen depends on the epoch."""
        return self.head_epochs > 0

    def check(self, stages: Sequence[str], epochs: int) -> None:
        """Check the plan against the stages of a network and the number of epochs.

        Raises:
            UserError: an unknown stage, or a plan that would freeze nothing or never unfreeze anything.
        """
        if self.until and self.until not in stages:
            raise unknown("stage", self.until, stages)
        if self.until == stages[-1]:
            raise UserError(f"recipe.freeze={self.text}: {self.until} is the head, which is always trained: write backbone")
        if self.head_epochs >= epochs:
            raise UserError(f"recipe.freeze={self.text}: the training ends after {epochs} epochs, before anything is unfrozen")

    def trained_from(self, stages: Sequence[str]) -> dict[str, int | None]:
        """Map each stage to the first epoch, from 0, in which it is trained; None is never."""
        body, head = stages[:-1], stages[-1]
        plan: dict[str, int | None]
        if self.text == "none":
            plan = dict.fromkeys(body, 0)
        elif self.text == "backbone":
            plan = dict.fromkeys(body, None)
        elif self.until:
            last = body.index(self.until)
            plan = {stage: None if place <= last else 0 for place, stage in enumerate(body)}
        else:
            plan = {stage: self.head_epochs + depth * self.stage_epochs for depth, stage in enumerate(reversed(body))}
        return {**{stage: plan[stage] for stage in body}, head: 0}

    def frozen(self, stages: Sequence[str], epoch: int) -> tuple[str, ...]:
        """List the stages that are frozen in an epoch, from 0."""
        plan = self.trained_from(stages)
        return tuple(stage for stage in stages if (first := plan[stage]) is None or epoch < first)
