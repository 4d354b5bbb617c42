"""One parameter's gradient jumps, and the total hides it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import KNOWN, Finding, History, Level, Signals
from gradbelt.symptoms.rows import recorded


@dataclass(frozen=True, slots=True)
class LayerJump:
    """ln(norm) of one parameter stands far above its own past, while the total is as usual.

    Far: `z` deviations and more the more parameters there are, since among many one is always the highest (by
    ln(P) / sqrt(2): Bonferroni, for tails that fall as slowly as Laplace's), and `ratio` times its level. A parameter
    whose gradient is below `least` of the total moves nothing. Levels are followed over accepted steps, each distance
    held to four deviations, so that neither a refused step nor a spike moves them. Source: ours.

    False alarms: a part of the model that is seldom used, and rightly has a large gradient when it is.
    """

    z: float = 8.0
    ratio: float = 20.0
    least: float = 1e-3
    kinds: tuple[str, ...] = ("grad_explosion",)

    CALM: ClassVar = (
        [recorded(i, 1.0, 1.0 + 0.2 * (i % 5), 0.1) for i in range(200)],
        [recorded(i, 1.0, 1.0 + 0.2 * (i % 5), 0.1 if i < 150 else 0.5) for i in range(200)],
        [recorded(i, 1.0, 1.0 + 0.2 * (i % 5), 1e-6 if i < 150 else 1e-4) for i in range(200)],
        [recorded(i, 1.0, *[1.0 if i < 150 else 90.0] * 2) for i in range(151)],  # the total shows it
    )
    SICK: ClassVar = ([recorded(i, 1.0, 1.0 + 0.2 * (i % 5), 0.01 if i != 150 else 1.0) for i in range(160)],)

    def look(self, signals: Signals, history: History) -> Finding | None:
        if not len(signals.apart) or not math.isfinite(signals.total) or history.accepted < KNOWN:
            return None
        if signals.z > TOTAL and signals.ratio > self.ratio:
            return None
        at = int(signals.apart.argmax())
        limit = self.z + math.log(len(signals.apart)) / math.sqrt(2.0)
        norm, usual = float(signals.norm[at]), float(signals.usual[at])
        if not (signals.apart[at] > limit and norm > self.ratio * usual and norm > self.least * signals.total):
            return None
        return Finding(
            kind="grad_explosion", step=signals.step, level=Level.WARN, where=signals.names[at], value=norm,
            limit=self.ratio * usual, shape="layer",
            message=tell(
                "step {step}: the gradient of {where} is {ratio} times its usual size; the total norm does not show it",
                step=signals.step, where=signals.names[at], ratio=f"{norm / usual:.3g}",
            ),
        )  # fmt: skip


TOTAL = 6.0  # deviations of the total above which it shows by itself
