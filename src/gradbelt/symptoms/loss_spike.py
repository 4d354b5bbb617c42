"""The loss jumps for a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import WARM, Finding, History, Level, Signals
from gradbelt.belt.derive import middle_and_spread


@dataclass(frozen=True, slots=True)
class LossSpike:
    """The loss stands `z` robust deviations and `ratio` times above the median of its recent past.

    Only watched: most spikes recover. If this one does not, `divergence` says so a few steps later. Source: median and
    MAD (Hampel, 1974), of losses and not of their logarithms, for downwards nothing is wanted.

    False alarms: heavy tails, single rows, and the first batch of a harder task: it is told, and nothing more.
    """

    z: float = 8.0
    ratio: float = 10.0
    kinds: tuple[str, ...] = ("loss_spike",)

    CALM: ClassVar = ([(1.0 + 0.2 * (i % 5), 1.0, 1.0) for i in range(80)], [(-1.0, 1.0, 1.0)] * 60)
    SICK: ClassVar = ([(0.5 + 0.01 * (i % 7), 1.0, 1.0) for i in range(40)] + [(20.0, 5.0, 1.0)],)

    def look(self, signals: Signals, history: History) -> Finding | None:
        course = signals.course
        if not signals.losses or len(course.window) <= WARM or not math.isfinite(course.recent[-1].loss):
            return None
        *past, loss = course.window
        middle, spread = middle_and_spread(past)
        if middle <= 0 or loss <= self.ratio * middle or loss - middle <= self.z * spread:
            return None
        return Finding(
            kind="loss_spike",
            step=signals.step,
            level=Level.WATCH,
            where=course.largest,
            value=loss,
            limit=max(self.ratio * middle, middle + self.z * spread),
            message=tell(
                "step {step}: the loss jumped to {value}, {ratio} times its recent median",
                step=signals.step,
                value=f"{loss:.4g}",
                ratio=f"{loss / middle:.3g}",
            ),
        )
