"""A number that was not the program's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class Hardware:
    """The same script with the same seeds did not break again: a flipped bit, a faulty device, a race.

    Needs both: the run repeats bit by bit up to there, or nearly, and then goes on well. A script that draws fresh
    random numbers each time gives no such evidence.
    """

    name: ClassVar[str] = "hardware"
    prior: ClassVar[float] = 0.01
    cures: ClassVar[tuple[str, ...]] = ("skip_step", "skip_spike", "clip_norm")

    def weigh(self, case: Case) -> list[Clue]:
        control = case.unchanged
        if case.evidence.reproduced:
            return [Clue(-8.0, tell("it broke again at the same step when it was run again"))]
        if control is None or control.outcome == "nonfinite":
            return [Clue(-4.0, tell("unchanged, the script breaks again"))]
        if control.outcome != "learning":
            return [Clue(-1.0, tell("unchanged, the script does not learn the second time either"))]
        clues = [Clue(6.0, tell("run again unchanged, with the same seeds, it did not break"))]
        if case.at_once or case.leapt or (case.jump or 0.0) > SUDDEN:
            clues.append(Clue(1.0, tell("the steps before were like any other")))
        return clues


SUDDEN = 100.0  # times the median gradient norm
