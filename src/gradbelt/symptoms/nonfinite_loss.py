"""The loss is nan or inf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals


@dataclass(frozen=True, slots=True)
class NonFiniteLoss:
    """A loss that `backward` was called on is nan or inf.

    Certain, and without a threshold. A loss that the script throws away before `backward` is not seen. Source: IEEE
    754.

    False alarms: a batch of which nothing counts, every target of it ignored, say: its gradient is finite. The verdict
    lowers that to a warning where the run goes on.
    """

    kinds: tuple[str, ...] = ("nan_loss", "inf_loss")

    CALM: ClassVar = ([(1.0, 1.0, 1.0)] * 5,)
    SICK: ClassVar = ([(1.0, 1.0, 1.0)] * 3 + [(math.nan, 1.0, 1.0)], [(math.inf, 1.0, 1.0)])

    def look(self, signals: Signals, history: History) -> Finding | None:
        for where, loss in sorted(signals.losses.items()):
            if math.isfinite(loss):
                continue
            kind = "nan" if math.isnan(loss) else "inf"
            return Finding(
                kind=f"{kind}_loss",
                step=signals.step,
                level=Level.ALARM,
                where=where,
                value=loss,
                message=tell("step {step}: the loss at {where} is {kind}", step=signals.step, where=where, kind=kind),
            )
        return None
