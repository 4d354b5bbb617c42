"""A norm limit that changes with the step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.rule import Example, down_to, measured, refuse, threshold
from gradbelt.errors import UsageError

USAGE = "Write clip.Schedule(((0, 0.5), (1000, 1.0))), or schedule:0,0.5,1000,1.0: steps that rise, each with a limit."


@dataclass(frozen=True)
class Schedule:
    """The total L2 norm is at most the limit of its step: linear between `points`, constant before and after them.

    Use it where the right threshold is known to move: tight while the learning rate warms up, loose later; or, as OPT
    was trained, tightened by hand after a divergence. A step is the optimizer's, from 0; one that was left out counts.

    Raises UsageError unless steps rise and limits are finite numbers above 0.

    >>> from gradbelt._types import History
    >>> rule = Schedule(((0, 0.5), (1000, 1.0)))
    >>> rule.limit(0), rule.limit(500), rule.limit(10_000)
    (0.5, 0.75, 1.0)
    """

    points: Sequence[tuple[float, float]]
    name: ClassVar[str] = "schedule"
    SOURCE: ClassVar[str] = (
        "Opacus' GradClipScheduler (Meta, 2023); OPT-175B's logbook (Zhang et al. 2022, arXiv:2205.01068) by hand"
    )

    def __post_init__(self) -> None:
        try:
            points = tuple((float(step), threshold(limit, "Schedule's limit")) for step, limit in self.points)
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{self.points!r} is no schedule of thresholds. {USAGE}") from None
        steps = [step for step, _ in points]
        rising = all(a < b for a, b in itertools.pairwise(steps))
        if not points or not rising or not all(math.isfinite(x) for point in points for x in point):
            raise UsageError(f"{self.points!r} is no schedule of thresholds. {USAGE}")
        object.__setattr__(self, "points", points)

    @classmethod
    def of(cls, *numbers: float) -> Schedule:
        """From steps and limits by turns, as they are written on a command line."""
        if len(numbers) % 2:
            raise UsageError(f"{len(numbers)} numbers are no steps and limits by turns. {USAGE}")
        return cls(tuple(zip(numbers[::2], numbers[1::2], strict=True)))

    def decide(self, seen: Measurement, history: History) -> Action:
        return down_to(self.limit_ahead(history), seen) if seen.finite else refuse(seen)

    def limit_ahead(self, history: History) -> float:
        return self.limit(history.steps)

    def limit(self, step: int) -> float:
        """The threshold at a step."""
        (before, low), *rest = self.points
        if step <= before:
            return low
        for after, high in rest:
            if step < after:
                return low + (high - low) * (step - before) / (after - before)
            before, low = after, high
        return low


CALM = (Example(rule=Schedule(((0, 0.5), (1000, 1.0))), seen=measured(0.3, 0.4)),)
SICK = (Example(rule=Schedule(((0, 0.5), (1000, 1.0))), seen=measured(0.6, 0.8)),)
