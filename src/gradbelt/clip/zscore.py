"""So many standard deviations above the mean of recent norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.rule import Example, accepted, down_to, measured, norms_of, recent_first, refuse, threshold

DECAY = 0.97
START = 25  # accepted steps before a deviation means anything


@dataclass(frozen=True)
class Zscore:
    """A total L2 norm more than `z` standard deviations above the mean ends at mean + z x deviation x (z / its own z).

    So the further out a norm lies, the nearer to the mean it is brought (ZClip's "adaptive scaling"). Beyond that no
    norm exceeds `max_norm`, which alone holds for the first 25 accepted steps.

    Use it for pre-training a language model, as its authors do, and keep the cap: without it, mean and deviation follow
    an explosion up, and on heavy-tailed gradients the loss ends six times as high (`python -m benchmarks rules`). The
    cap has the scale of the loss; 1.0 is theirs.

    Mean and deviation are over the norms of the last 200 accepted steps as they were after clipping, weighted by 0.97
    to the power of their age. ZClip's running averages never end, but norms older than that weigh 0.2 % together.
    Unlike the source, one NaN doesn't switch it off. Raises UsageError unless both numbers are above 0.

    >>> from gradbelt.clip.rule import accepted, measured
    >>> history = accepted(*[0.4, 0.6] * 50)  # mean 0.5, deviation 0.1
    >>> rule = Zscore(2.0, max_norm=10.0)
    >>> rule.decide(measured(0.69), history)
    Keep()
    >>> round(0.9 * rule.decide(measured(0.9), history).coefficient, 2)
    0.6
    """

    z: float = 2.5
    max_norm: float = 1.0
    name: ClassVar[str] = "zscore"
    SOURCE: ClassVar[str] = (
        "Kumar et al.: ZClip, 2025, arXiv:2504.02507, over the window of accepted steps instead of running averages"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "z", threshold(self.z, "Zscore's z"))
        object.__setattr__(self, "max_norm", threshold(self.max_norm, "Zscore's max_norm"))

    def decide(self, seen: Measurement, history: History) -> Action:
        if not seen.finite:
            return refuse(seen)
        return down_to(min(self.limit(seen.total, history), self.max_norm), seen)

    def limit(self, total: float, history: History) -> float:
        """What the deviations allow a norm of `total`; inf while there are too few, or where they allow it."""
        if len(history.levels) < START:
            return math.inf
        norms, unit = norms_of(history)
        weights = recent_first(norms, DECAY)
        mean = float(np.average(norms, weights=weights))
        deviation = math.sqrt(float(np.average(np.square(norms - mean), weights=weights)))
        above = total / unit - mean
        if above <= self.z * deviation:
            return math.inf
        return (mean + self.z * deviation * (self.z * deviation / above)) * unit


CALM = (
    Example(rule=Zscore(), seen=measured(0.9)),
    Example(rule=Zscore(max_norm=math.inf), seen=measured(6.9), history=accepted(*[4.0, 5.0, 6.0] * 20)),
)
SICK = (
    Example(rule=Zscore(), seen=measured(1.1)),
    Example(rule=Zscore(max_norm=math.inf), seen=measured(9.0), history=accepted(*[4.0, 5.0, 6.0] * 20)),
    Example(rule=Zscore(max_norm=math.inf), seen=measured(9.0), history=accepted(*[4.0] * 60)),
)
