"""Clipping cuts so much off every step that the run stands still."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord, StepRecord
from gradbelt.symptoms.rows import recorded
from gradbelt.symptoms.stalled import FLAT, losses_of, norm_of


def _clipped(to: float, *, weight: float = 0.0, loss: float = 0.0) -> list[StepRecord]:
    """Steps with a norm of about 1 clipped to `to`, while the weights grow and the loss falls by so much in all."""
    return [
        recorded(i, 2.3 - loss * i / 120, to, unclipped=1.0 + 0.3 * (i % 3), weight=np.array([5.0 + weight * i / 120]))
        for i in range(120)
    ]


@dataclass(frozen=True, slots=True)
class ClipSaturated:
    """Clipping, the script's own by norm or the belt's, acted at `share` of the steps and left less than 1/`cut` of the
    gradient; the loss did not fall; and the weights are where they were.

    Clipping at every step alone is no symptom: it is gradient descent by direction, and can be the best there is. The
    weights are taken to be where they were if their norms, a parameter each, differ from those at the first step by
    less than `moved` of the whole. The loss has fallen if its median over the last third lies 5 % below that over the
    first, and of two losses, one from each, the last is the lower at least `below` of the time, which noise alone does
    not bring about. Only watched, in hindsight over at least `least` steps. Source: the two failure modes of a
    threshold, too small and too large, judged by progress and not by the rate alone, because normalised steps can be
    meant (Zhang et al., 2020, Why gradient clipping accelerates training).

    False alarms: an adaptive optimizer, which no clipping slows, at a learning rate too small to move anything.
    Not seen: clipping by value, whose gradients are only known after it.
    """

    share: float = 0.99
    cut: float = 10.0
    moved: float = 1e-4
    below: float = 0.65
    least: int = 100
    kinds: tuple[str, ...] = ("clip_saturated",)

    CALM: ClassVar = (_clipped(1e-6, loss=1.0), _clipped(1e-6, weight=0.5), _clipped(0.5), _clipped(1e-6)[:60])
    SICK: ClassVar = (_clipped(1e-6),)

    def look_back(self, record: RunRecord) -> Finding | None:
        kept = [row for row in record.steps if not row.skipped and math.isfinite(row.total)]
        if len(kept) < self.least or len({row.optimizer for row in kept}) > 1 or not self._still(record):
            return None
        before = [norm_of(row) for row in kept]
        cuts = [norm / row.total_after if row.total_after > 0 else 1.0 for norm, row in zip(before, kept, strict=True)]
        rate, cut = sum(cut > 1.001 for cut in cuts) / len(cuts), statistics.median(cuts)
        if not (rate >= self.share and cut >= self.cut):
            return None
        step = kept[0].step
        said = tell(
            "step {step}: clipping divides the gradient by {cut} (median), at {rate} of the steps; the weights hardly "
            "move, and the loss does not fall",
            step=step,
            cut=f"{cut:.2g}",
            rate=f"{rate:.1%}",
        )
        return Finding(
            kind="clip_saturated", step=step, level=Level.WATCH, value=statistics.median(before),
            limit=statistics.median(row.total_after for row in kept), message=said,
        )  # fmt: skip

    def _still(self, record: RunRecord) -> bool:
        """Whether neither the loss nor the weights have gone anywhere."""
        losses = losses_of(record.steps)
        if len(losses) < self.least:
            return False
        third = len(losses) // 3
        early, late = np.array(losses[:third]), np.array(losses[-third:])
        below = np.mean(late < early[:, None])
        if not early.min() > 0 or (below >= self.below and np.median(late) < (1 - FLAT) * np.median(early)):
            return False
        names = record.steps[-1].names
        weights = [
            row.weight
            for row in record.steps
            if row.weight is not None and row.names == names and np.isfinite(row.weight).all()
        ]
        if len(weights) < 2:
            return False
        first, last = weights[0].astype(np.float64), weights[-1].astype(np.float64)
        return bool(np.linalg.norm(last - first) <= self.moved * np.linalg.norm(first))
