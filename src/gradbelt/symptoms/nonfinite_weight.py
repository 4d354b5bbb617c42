"""A weight is nan or inf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals


@dataclass(frozen=True, slots=True)
class NonFiniteWeight:
    """A parameter holds nan or inf before the step: the run can't come back by itself. Source: IEEE 754.

    False alarms: a parameter that holds -inf on purpose, as a mask that is trained beside. Only the steps at which
    weights are read are seen: the first ten, every tenth, and those after a jump.
    """

    kinds: tuple[str, ...] = ("nan_weight", "inf_weight")

    CALM: ClassVar = ([(1.0, 1.0, 1.0)] * 5,)
    SICK: ClassVar = ([(1.0, 1.0, 1.0), (1.0, 1.0, math.nan)], [(1.0, 1.0, math.inf)])

    def look(self, signals: Signals, history: History) -> Finding | None:
        if signals.weight is None or math.isfinite(signals.weight):
            return None
        kind = "nan" if math.isnan(signals.weight) else "inf"
        return Finding(
            kind=f"{kind}_weight",
            step=signals.step,
            level=Level.ALARM,
            value=signals.weight,
            message=tell("step {step}: a weight is {kind}", step=signals.step, kind=kind),
        )
