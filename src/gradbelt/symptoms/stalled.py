"""The gradients exploded, the loss did not, and nothing is learnt since; and what a flat loss is."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord, StepRecord
from gradbelt.symptoms.rows import recorded

FLAT = 0.05  # a loss that falls by less than this share of its level lies flat
LEFT = 0.4  # times the first loss: one that ends below has been learnt on
LEAST = 40  # steps with a loss that it takes to say so
RISE = 10.0  # times an earlier norm: a largest norm below that is where the run began, not where it exploded


def losses_of(rows: tuple[StepRecord, ...]) -> list[float]:
    """The finite losses, one for a step that has any: the sum over its streams."""
    losses = [math.fsum(row.losses.values()) for row in rows if row.losses]
    return [loss for loss in losses if math.isfinite(loss)]


def norm_of(row: StepRecord) -> float:
    """The total norm that backward left, before any clipping."""
    return row.unclipped if row.unclipped and math.isfinite(row.unclipped) else row.total


def flat_at(record: RunRecord) -> float | None:
    """Where the loss lies flat at the end of a run that learnt little; None where it does not, or a gradient broke.

    Flat: over the last half it fell by less than FLAT of its level, and it ended above LEFT of where it stood at the
    first step. Only a positive loss, over at least LEAST steps.
    """
    losses = losses_of(record.steps)
    if len(losses) < LEAST or not all(math.isfinite(row.total) for row in record.steps):
        return None
    half, quarter = losses[len(losses) // 2 :], len(losses) // 4
    early, late = statistics.median(half[:quarter]), statistics.median(half[-quarter:])
    return late if losses[0] > 0 and late > LEFT * losses[0] and early - late < FLAT * abs(early) else None


@dataclass(frozen=True, slots=True)
class Stalled:
    """A run whose gradients exploded early and whose loss then lies flat: finite, and dead.

    A bounded loss (cross-entropy over saturated units) hides an explosion. Two things must come together:

    - an explosion: one step multiplied the weight norm by `growth`, or a gradient norm rose to ten times an earlier one
      and `peak` times the median of the run (a run that has converged, too, ends far below its first norm);
    - a stall: over the last half the loss fell by less than 5 % of its level, and it ended above 0.4 of where it stood
      at the first step.

    Seen only in hindsight, over at least 40 steps. Dated to the step with the largest gradient. Source: ours.

    False alarms: a single wild gradient in a run that had nothing to learn, its loss flat from the start.
    """

    growth: float = 2.0
    peak: float = 300.0
    kinds: tuple[str, ...] = ("stalled",)

    CALM: ClassVar = (
        [recorded(i, 2.3, 1.0) for i in range(60)],
        [recorded(i, 2.3 / (1 + i), 1.0 + 1e4 * (i == 9)) for i in range(60)],
        [recorded(i, 2.3 if i < 10 else 0.1, 1.0 + 1e4 * (i == 9)) for i in range(60)],
        [recorded(i, 1.0 + 0.8**i, 0.8**i) for i in range(60)],
    )
    SICK: ClassVar = ([recorded(i, 2.3, 1.0 + 1e4 * (i == 9)) for i in range(60)],)

    def look_back(self, record: RunRecord) -> Finding | None:
        late = flat_at(record)
        if late is None:
            return None
        jump = self._jump(record)
        norms = [norm_of(row) for row in record.steps]
        norm, typical = max(norms), statistics.median(norms)
        worst = record.steps[norms.index(norm)]
        rose = norm > RISE * min(norms[: norms.index(norm)], default=math.inf)
        if jump is None and not (rose and norm > self.peak * typical):
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
            if weight is None or not math.isfinite(weight):
                continue
            step, before = last.get(row.optimizer, (-2, 0.0))
            if step == row.step - 1 and before > 0 and weight >= self.growth * before:
                return step
            last[row.optimizer] = (row.step, weight)
        return None
