"""Old gradients are never cleared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class AccumulationBug:
    """Each step uses the sum of all gradients so far: the norm grows step by step, and momentum on top of it."""

    name: ClassVar[str] = "accumulation_bug"
    prior: ClassVar[float] = 0.05
    cures: ClassVar[tuple[str, ...]] = ("zero_grad",)

    def weigh(self, case: Case) -> list[Clue]:
        clues = []
        if case.evidence.stale:
            clues.append(Clue(6.0, tell("gradients of the step before were still there when backward ran")))
        else:
            clues.append(Clue(-7.0, tell("gradients are cleared before every backward")))
        if case.tried("zero_grad"):
            clues.append(Clue(2.0, tell("clearing them makes it learn")))
        return clues
