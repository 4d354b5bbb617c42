"""A multiple of the median of recent norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import WARM, Action, History, Measurement
from gradbelt.clip.rule import Example, accepted, down_to, measured, refuse, threshold


@dataclass(frozen=True)
class Median:
    """The total L2 norm is at most `times` the median norm of the last 200 accepted steps, as they were after clipping.

    Use it to cut rare spikes out of a run whose norms are steady, and only there. On heavy-tailed gradients it is a
    feedback loop: too loose a limit lets too large a step through, norms grow, and the limit with them (`python -m
    benchmarks rules`: six times the loss of a fixed norm). The first 20 accepted steps pass: a median of few is none.

    Unlike the source, which takes the last 100 norms as they came, weighted by the size of their parameters, it learns
    clipped norms; a median hardly notices while `times` is well above 1. Raises UsageError unless `times` is above 0.

    >>> from gradbelt.clip.rule import accepted, measured
    >>> history = accepted(*[1.0, 2.0, 3.0] * 20)
    >>> Median(2.0).decide(measured(3.9), history), Median(2.0).decide(measured(8.0), history)
    (Keep(), Scale(coefficient=0.5))
    """

    times: float = 2.0
    name: ClassVar[str] = "median"
    SOURCE: ClassVar[str] = (
        "Yao et al.: Zipformer, ICLR 2024, arXiv:2310.11230 (ScaledAdam's clipping_scale, 100 norms)"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", threshold(self.times, "Median's times"))

    def decide(self, seen: Measurement, history: History) -> Action:
        return down_to(self.limit_ahead(history), seen) if seen.finite else refuse(seen)

    def limit_ahead(self, history: History) -> float:
        middle = history.median
        return math.inf if middle is None or len(history.levels) < WARM else self.times * middle


CALM = (
    Example(rule=Median(), seen=measured(1e9)),
    Example(rule=Median(), seen=measured(9.0), history=accepted(*[4.0, 5.0, 6.0] * 20)),
)
SICK = (Example(rule=Median(), seen=measured(11.0), history=accepted(*[4.0, 5.0, 6.0] * 20)),)
