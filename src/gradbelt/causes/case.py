"""What is known of a run when its causes are weighed, and what a cause is."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gradbelt._told import tell
from gradbelt._types import Evidence, Onset, Outcome, Risk, RunRecord
from gradbelt.examine.reproduce import leapt
from gradbelt.remedies import parts

FORETOLD = 3.0  # nats
STRUCTURE = ("depth", "init", "activation", "recurrence", "residual_scaling")
"""Causes that are there before the first update: gains that multiply up over the layers or over time."""
HUGE = 1e9  # what goes into an operation above this has grown on the way
APART = 10.0  # times the others' median: small batches differ by less
NEAR = 1.3  # times the best loss: an arm that ends above has not shown that it meets the cause


@dataclass(frozen=True, slots=True)
class Clue:
    """One piece of evidence: positive for the cause, negative against it."""

    nats: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that is known of a run when its causes are weighed."""

    record: RunRecord
    onset: Onset
    evidence: Evidence
    outcomes: tuple[Outcome, ...] = ()

    @property
    def at_once(self) -> bool:
        """Whether numbers broke without having grown: the loss before the first bad step was nothing unusual."""
        first = self.onset.first
        if first is None or first.kind[:3] not in ("nan", "inf"):
            return False
        before = self.losses[: self.onset.bad_step]
        return not before or not before[-1] > 3 * max(before[0], statistics.median(before))

    @property
    def stands_out(self) -> bool | None:
        """Whether the onset's batch makes a gradient far larger than others do at the same weights, and one of its rows
        more than the others; None where that was not measured."""
        ratio, row = self.evidence.batch_ratio, self.evidence.example_ratio
        return None if ratio is None else not (ratio <= APART or (row is not None and row <= APART))

    @property
    def overflowed(self) -> bool:
        """Whether what went into the operation that broke had grown on the way there, within the step."""
        return (self.evidence.size or 0.0) > HUGE

    @property
    def leapt(self) -> bool:
        """Whether the loss jumped in a single step, after a step like any other."""
        return self.onset.bad_step is not None and leapt(self.record, self.onset.bad_step)

    @property
    def fell(self) -> bool:
        """Whether the loss has left downwards: nothing bounds it below."""
        return self.onset.first is not None and self.onset.first.fell

    @property
    def lengthened(self) -> bool:
        """Whether sequences were twice as long when it broke as they had been at first, or longer."""
        first, last = self.evidence.sequence or self.evidence.repeats, self.evidence.unrolled
        return bool(first) and last is not None and last >= 2 * (first or 0)

    def foretold(self, *causes: str) -> list[Clue]:
        """What the first step already showed of these causes, the gains of layers measured on the script's own
        batch."""
        return [Clue(FORETOLD, tell("at the first step {what}", what=risk.what)) for risk in self.risks(*causes)]

    def risks(self, *causes: str) -> list[Risk]:
        """The risks of the first step that these causes explain."""
        return [risk for risk in self.evidence.risks or () if risk.cause in causes]

    @property
    def early(self) -> bool:
        """Whether it was there from the start, so that no state of the training had a part in it."""
        return self.onset.bad_step is not None and self.onset.bad_step <= 3

    @property
    def losses(self) -> list[float]:
        """The loss of each step, all streams added."""
        by_step: dict[int, float] = {}
        for row in self.record.steps:
            if row.losses:
                by_step[row.step] = by_step.get(row.step, 0.0) + math.fsum(row.losses.values())
        return [by_step[step] for step in sorted(by_step)]

    @property
    def jump(self) -> float | None:
        """The gradient norm at the first bad step over the median before it; None where there is no before."""
        bad = self.onset.bad_step
        before = [row.total for row in self.record.steps if bad is not None and row.step < bad and row.total > 0]
        at = [row.total for row in self.record.steps if row.step == bad and math.isfinite(row.total)]
        return at[0] / statistics.median(before) if at and len(before) >= 3 else None

    @property
    def unchanged(self) -> Outcome | None:
        """What became of the script when it was tried again as it is."""
        return next((outcome for outcome in self.outcomes if not outcome.remedy), None)

    def tried(self, *names: str) -> bool | None:
        """Whether one of these remedies, alone, cured the run: it learns, and ends near the best that any arm reached.

        None if none of them was tried and found something to do, or if one learns but ends well above the best, or was
        alive when its time was up: that tells neither way. Nor does anything where the script learns unchanged.
        """
        if self.unchanged is not None and self.unchanged.outcome == "learning":
            return None
        learning = [o.loss for o in self.outcomes if o.remedy and o.outcome == "learning" and o.loss is not None]
        near = min(learning, default=math.inf) * NEAR + 0.02 * self.scale
        alone = [
            o for o in self.outcomes if len(parts(o.remedy)) == 1 and not o.idle and o.remedy.partition("=")[0] in names
        ]
        learnt = [o.loss for o in alone if o.outcome == "learning" and o.loss is not None]
        if any(loss <= near for loss in learnt):
            return True
        open_yet = any(o.late and o.outcome == "finite_not_learning" for o in alone)
        return None if learnt or open_yet or not alone else False

    @property
    def scale(self) -> float:
        """The size of the loss at first, of the run or of an arm that learns, whichever is smaller.

        A run that has exploded before its first loss begins at any size, which is no scale to tell arms apart by.
        """
        begun = [loss for o in self.outcomes if o.outcome == "learning" for _, loss in o.curve[:1]]
        return min((abs(loss) for loss in (*self.losses[:1], *begun) if math.isfinite(loss)), default=0.0)

    def best_has(self, name: str) -> bool:
        """Whether the remedy is part of the arm that learns and ends lowest."""
        learning = [o for o in self.outcomes if o.remedy and o.outcome == "learning" and o.loss is not None]
        best = min(learning, key=lambda o: o.loss if o.loss is not None else math.inf, default=None)
        return best is not None and name in {part.partition("=")[0] for part in parts(best.remedy)}


class Cause(Protocol):
    """Weighs a case."""

    name: ClassVar[str]
    prior: ClassVar[float]
    cures: ClassVar[tuple[str, ...]]  # remedies by name, best first, whether or not they can be tried from outside

    def weigh(self, case: Case) -> list[Clue]:
        """The clues for and against; an empty list leaves the prior as it is."""
