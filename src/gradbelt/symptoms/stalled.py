"""The gradients exploded, the loss did not, and nothing is learnt since."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord


@dataclass(frozen=True, slots=True)
class Stalled:
    """A run whose gradients exploded early and whose loss then lies flat: finite, and dead.

    A bounded loss (cross-entropy over saturated units) hides an explosion. Two things must come together:

    - an explosion: one step multiplied the weight norm by `growth`, or a gradient norm `peak` times the median of the
      run;
    - a stall: over the last half the loss fell by less than `flat` of its level, and it ended above `left` of where it
      stood at the first step.

    Seen only in hindsight, over at least `least` steps. Dated to the step with the largest gradient.
    """

    growth: float = 2.0
    peak: float = 300.0
    flat: float = 0.05
    left: float = 0.4
    least: int = 40
    kinds: tuple[str, ...] = ("stalled",)

    def look_back(self, record: RunRecord) -> Finding | None:
        rows = [row for row in record.steps if math.isfinite(row.total)]
        losses = [(row.step, math.fsum(row.losses.values())) for row in rows if row.losses]
        losses = [(step, loss) for step, loss in losses if math.isfinite(loss)]
        if len(losses) < self.least or len(rows) < len(record.steps):
            return None
        start = losses[0][1]
        half, quarter = [loss for _, loss in losses[len(losses) // 2 :]], max(1, len(losses) // 4)
        early, late = statistics.median(half[:quarter]), statistics.median(half[-quarter:])
        if not (start > 0 and late > self.left * start and early - late < self.flat * abs(early)):
            return None
        jump = self._jump(record)
        worst = max(rows, key=lambda row: row.unclipped or row.total)
        norm = worst.unclipped or worst.total
        typical = statistics.median(row.unclipped or row.total for row in rows)
        if jump is None and not norm > self.peak * typical:
            return None
        return Finding(
            kind="stalled",
            step=worst.step,
            level=Level.ALARM,
            value=norm,
            limit=self.peak * typical,
            message=tell(
                "step {step}: the gradient norm reached {norm} ({ratio} times its median); the loss has lain flat at "
                "{loss} since",
                step=worst.step,
                norm=f"{norm:.4g}",
                ratio=f"{norm / typical:.3g}" if typical else "inf",
                loss=f"{late:.4g}",
            ),
        )

    def _jump(self, record: RunRecord) -> int | None:
        """The first step that multiplied the weight norm by `growth`, among steps sampled one after the other."""
        last: dict[int, tuple[int, float]] = {}
        for row in record.steps:
            weight = row.measurement().weight_total
            if weight is None:
                continue
            step, before = last.get(row.optimizer, (-2, 0.0))
            if step == row.step - 1 and before > 0 and weight >= self.growth * before:
                return step
            last[row.optimizer] = (row.step, weight)
        return None
