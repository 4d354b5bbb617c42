"""A threshold found from the run itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import Action, History, Keep, Measurement, Scale
from gradbelt.clip.rule import Example, accepted, measured, refuse

QUANTILE = 0.9  # of the accepted, clipped norms in the window
SLACK = 1.05  # above that quantile
CEILING = 10.0  # times their median, the upper end of Pascanu's range
FIRST_STEP = 0.1  # share of the weights' norm that the first step's lr x gradient may reach
FIRST_FLOOR = 1.0  # the customary threshold; the first step is never held below it


@dataclass(frozen=True)
class Auto:
    """The total L2 norm is at most 1.05 times the 90 % quantile of the accepted norms, as they were after clipping.

    Use it when you don't know the scale of your gradients. On a steady run it clips 4 to 11 % of the steps, and about
    20 % of the first 200, while it feels its way up (log-normal norms, sigma 0.1 to 0.6, simulated).

    Two things make it safe. It learns from *clipped* norms: whatever lies above the threshold is learned as the
    threshold. So the threshold can rise only as fast as a tenth of the window fills with clipped steps, 0.25 % a step
    once the window (200 steps) is full and faster while it is short (about the square root of the number of steps): an
    explosion grows far faster than that, a healthy drift does not. A mean plus so many deviations, or a multiple of the
    median, would follow an explosion up. And it never exceeds 10 times the median.

    Start: with two steps behind it the quantile is the smaller norm, and up to ten steps the largest is left out, so
    one odd first step sets nothing. The first step itself has no past. It passes if lr x norm is within a tenth of the
    weights' norm, else it is scaled to that, though never below a norm of 1.0; where the weights were not sampled or
    the learning rate is unknown it passes.

    Limits: a norm that rightly rises faster than it may (the gate of a zero-initialised branch opening, a first batch
    that was all padding) is clipped hard until the threshold has caught up, doubling in about 290 steps; adaptive
    optimizers don't mind, plain SGD loses time. An explosion that is there from the first step on, within the first
    step's bound, is taken for the run's scale. `Norm` with the number that `gradbelt run` proposes has neither limit.

    >>> from gradbelt.clip.rule import accepted, measured
    >>> rule, history = Auto(), accepted(*[1.0] * 100)
    >>> rule.decide(measured(1.04), history)
    Keep()
    >>> rule.decide(measured(10.0), history)
    Scale(coefficient=0.10500000000000001)
    """

    name: ClassVar[str] = "auto"
    SOURCE: ClassVar[str] = (
        "the quantile of Seetharaman et al.: AutoClip, MLSP 2020, arXiv:2007.14469, at the high end, over clipped "
        "norms as in Wang et al.: AdaGC, 2025, arXiv:2502.11034"
    )

    def decide(self, seen: Measurement, history: History) -> Action:
        if not seen.finite:
            return refuse(seen)
        limit = self.limit(seen, history)
        if seen.total <= limit:
            return Keep()
        return Scale(limit / seen.total)

    def limit(self, seen: Measurement, history: History) -> float:
        """The threshold on the total norm at this step; inf where there is none yet."""
        known = self.limit_ahead(history)
        return _first(seen) if known is None else known

    def limit_ahead(self, history: History) -> float | None:
        """The threshold as far as the past tells it: not that of a first step, which goes by its weights."""
        levels = sorted(level for level in history.levels if math.isfinite(level))  # ln(0) is no scale
        if not levels:
            return None
        high = SLACK * math.exp(levels[int(QUANTILE * (len(levels) - 1))])
        return min(high, CEILING * math.exp(levels[(len(levels) - 1) // 2]))


def _first(seen: Measurement) -> float:
    weight = seen.weight_total
    if weight is None or not weight > 0.0 or not seen.lr > 0.0:
        return math.inf
    return max(FIRST_STEP * weight / seen.lr, FIRST_FLOOR)


CALM = (
    Example(rule=Auto(), seen=measured(3.0, 4.0)),
    Example(rule=Auto(), seen=measured(3.0, 4.0), history=accepted(*[4.0, 5.0, 6.0] * 20)),
    Example(rule=Auto(), seen=measured(0.0), history=accepted(*[1.0] * 20)),
)
SICK = (
    Example(rule=Auto(), seen=measured(1e9, weight=20.0, lr=0.1)),
    Example(rule=Auto(), seen=measured(80.0), history=accepted(*[4.0, 5.0, 6.0] * 20)),
)
