"""A gradient is nan or inf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals


@dataclass(frozen=True, slots=True)
class NonFiniteGrad:
    """A gradient that the optimizer is about to use holds nan or inf.

    Called inf when any element is: inf is what an operation makes, nan is what becomes of it one product later. Steps
    that a GradScaler leaves out by design never reach the optimizer, so they are not seen here. Source: IEEE 754.

    False alarms: a script that mends its gradients inside its own optimizer. One that leaves such a step out, or zeroes
    them before it steps, draws none.
    """

    kinds: tuple[str, ...] = ("nan_grad", "inf_grad")

    CALM: ClassVar = ([(1.0, 1.0, 1.0)] * 5, [(1.0, 1e30, 1.0)])
    SICK: ClassVar = ([(1.0, 1.0, 1.0), (1.0, math.nan, 1.0)], [(1.0, math.inf, 1.0)])

    def look(self, signals: Signals, history: History) -> Finding | None:
        if math.isfinite(signals.total):
            return None
        kinds = set(signals.bad.values()) or {"nan" if math.isnan(signals.total) else "inf"}
        kind = "inf" if "inf" in kinds else "nan"
        first = next((name for name, what in signals.bad.items() if what == kind), None)
        if first is None:
            message = tell("step {step}: the gradient is {kind}", step=signals.step, kind=kind)
        else:
            message = tell(
                "step {step}: {kind} in the gradients (parameters: {count}), first in {first}",
                step=signals.step,
                kind=kind,
                count=len(signals.bad),
                first=first,
            )
        return Finding(
            kind=f"{kind}_grad",
            step=signals.step,
            level=Level.ALARM,
            where=first,
            value=signals.total,
            message=message,
        )
