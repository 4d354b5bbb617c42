"""Clamp every element by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, Clamp, History, Keep, Measurement
from gradbelt.clip.rule import MARGIN, Example, measured, refuse, threshold


@dataclass(frozen=True)
class Value:
    """Every element of every gradient lies in [-limit, limit].

    Use it where single elements run away: a loss with rare, huge terms. It bends the gradient's direction towards the
    coordinates that were not clamped; where that matters take Norm. It has no meaning for complex gradients.

    An element is never larger than the norm of its gradient, so while all norms are within the limit nothing is
    written. Raises UsageError unless limit is above 0.

    >>> from gradbelt._types import History
    >>> from gradbelt.clip.rule import measured
    >>> Value(0.5).decide(measured(3.0, 0.1), History())
    Clamp(limit=0.5)
    >>> Value(0.5).decide(measured(0.3, 0.1), History())
    Keep()
    """

    limit: float
    name: ClassVar[str] = "value"
    SOURCE: ClassVar[str] = "Mikolov: Statistical language models based on neural networks, PhD thesis, Brno 2012"

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", threshold(self.limit, "Value's limit"))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history  # a fixed threshold has no memory
        if not seen.finite:
            return refuse(seen)
        if float(np.max(seen.norm, initial=0.0)) * MARGIN <= self.limit:
            return Keep()
        return Clamp(self.limit)


CALM = (Example(rule=Value(0.5), seen=measured(0.3, 0.4)), Example(rule=Value(0.5), seen=measured(0.0)))
SICK = (Example(rule=Value(0.5), seen=measured(0.3, 4.0)),)
