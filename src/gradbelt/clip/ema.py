"""A multiple of a moving average of recent norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.rule import Example, accepted, down_to, measured, norms_of, recent_first, refuse, threshold

DECAY = 0.98
START = 100  # accepted steps before the average is used


@dataclass(frozen=True)
class Ema:
    """The total L2 norm is at most `times` a moving average of the accepted norms, as they were after clipping.

    Use it on heavy-tailed gradients: it is AdaGC taken over the whole gradient, and there among the best (`python -m
    benchmarks rules`). Because it learns what it left, the limit grows by at most (times - 1) x 2 % a step, slower than
    any explosion; with `times` at 2 and above it follows one. It clips often: 43 to 79 % of the steps of a steady
    run (log-normal norms, sigma 0.1 to 0.6, simulated), where `Ema(1.5)` clips 0 to 24 %. The first 100 accepted steps
    are held to the norm `start`, which has the scale of the loss: inf for none.

    The weight of a norm is 0.98 to the power of its age in accepted steps, over the last 200 of them. A true average
    never ends: there norms older than that still weigh 1.8 % together, here nothing, and the first norm counts as any
    other. Raises UsageError unless both numbers are above 0.

    >>> from gradbelt.clip.rule import accepted, measured
    >>> Ema(1.5).decide(measured(3.0), accepted(*[1.0] * 150))
    Scale(coefficient=0.5)
    >>> Ema(1.5).decide(measured(4.0), accepted(1.0))
    Scale(coefficient=0.25)
    """

    times: float = 1.05
    start: float = 1.0
    name: ClassVar[str] = "ema"
    SOURCE: ClassVar[str] = "Wang et al.: AdaGC, 2025, arXiv:2502.11034, taken over the gradient as a whole"

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", threshold(self.times, "Ema's times"))
        object.__setattr__(self, "start", threshold(self.start, "Ema's start"))

    def decide(self, seen: Measurement, history: History) -> Action:
        return down_to(self.limit_ahead(history), seen) if seen.finite else refuse(seen)

    def limit_ahead(self, history: History) -> float:
        if history.accepted < START or not history.levels:
            return self.start
        norms, unit = norms_of(history)
        return self.times * float(np.average(norms, weights=recent_first(norms, DECAY))) * unit


CALM = (
    Example(rule=Ema(), seen=measured(0.9)),
    Example(rule=Ema(), seen=measured(4.9), history=accepted(*[4.0, 5.0, 6.0] * 40)),
)
SICK = (
    Example(rule=Ema(), seen=measured(4.0)),
    Example(rule=Ema(), seen=measured(6.0), history=accepted(*[4.0, 5.0, 6.0] * 40)),
)
