"""A percentile of recent norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import WINDOW, Action, History, Measurement
from gradbelt.clip.rule import Example, down_to, measured, refuse
from gradbelt.errors import UsageError


@dataclass(frozen=True)
class Percentile:
    """The total L2 norm is at most the `p`-th percentile of the last 200 accepted norms, as they were before clipping.

    Use it at 10, its authors' value, where gradients vary by orders of magnitude (theirs were of audio networks): most
    steps are clipped, and with SGD on heavy-tailed data it was the best of all rules (`python -m benchmarks rules`). At
    90 it cuts only peaks, and because it learns raw norms it follows an explosion up within a few dozen steps; at 10
    that takes an explosion of nearly the whole window.

    Unlike the source, which takes all norms since the start and this one among them, the window is the last 200
    accepted steps, without this one: the answer depends on nothing that is not yet known. The first step passes.
    Raises UsageError unless p lies above 0 and at or below 100.

    >>> from gradbelt.clip.rule import measured
    >>> history = History(notes={"raw": tuple(math.log(norm) for norm in (1.0, 2.0, 3.0))})
    >>> Percentile(50).decide(measured(4.0), history)
    Scale(coefficient=0.5)
    """

    p: float = 10.0
    name: ClassVar[str] = "percentile"
    SOURCE: ClassVar[str] = "Seetharaman et al.: AutoClip, MLSP 2020, arXiv:2007.14469"

    def __post_init__(self) -> None:
        if not 0.0 < self.p <= 100.0:
            raise UsageError(
                f"Percentile's p is {self.p!r}: a percentile lies above 0 and at or below 100. AutoClip's is 10, which "
                "clips nine steps in ten; 90 clips one."
            )

    def decide(self, seen: Measurement, history: History) -> Action:
        return down_to(self.limit_ahead(history), seen) if seen.finite else refuse(seen)

    def limit_ahead(self, history: History) -> float:
        levels = history.notes.get("raw", ())
        if not levels:
            return math.inf
        largest = max(levels)  # interpolates between norms, not logarithms, as the source does
        limit = float(np.percentile(np.exp(np.array(levels) - largest), self.p))
        # a percentile is no smaller than the smallest, but beside the largest that may vanish
        return max(limit * math.exp(largest), math.exp(min(levels)))

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """The window of ln(norm), unclipped; an all-zero gradient has none."""
        if not seen.total > 0.0:
            return {}
        return {"raw": (*history.notes.get("raw", ())[1 - WINDOW :], math.log(seen.total))}


_PAST = History(notes={"raw": tuple(math.log(norm) for norm in [4.0, 5.0, 6.0] * 20)})
CALM = (
    Example(rule=Percentile(), seen=measured(1e9)),
    Example(rule=Percentile(90.0), seen=measured(5.9), history=_PAST),
)
SICK = (
    Example(rule=Percentile(), seen=measured(4.5), history=_PAST),
    Example(rule=Percentile(90.0), seen=measured(6.5), history=_PAST),
)
