"""The gradient does not reach the first layers, or dies on the way, and nothing is learnt."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord
from gradbelt.symptoms.rows import recorded
from gradbelt.symptoms.stalled import flat_at, losses_of, norm_of


@dataclass(frozen=True, slots=True)
class GradVanishing:
    """The loss lies flat, as `stalled` counts it, and the gradient is not there. Two faces of one thing:

    - across depth: the median norms of the first third of the parameters all lie below `span` times the largest of the
      last third. A layer frozen or unused has none: a norm between 0 and that must be among them, for then the decay
      itself is seen;
    - over time: the norm fell below `gone` times the median of the first `early` steps, stayed there for at least half
      of the run and to its end, and the loss ended above its start. A run that converged has such gradients too, but
      not such a loss.

    Seen only in hindsight. Ratios alone decide: multiplying a loss or its gradients changes nothing. Silent where
    several optimizers take turns, whose losses say little of how far they are. Source: the share of correct programs
    that fixed thresholds flag (59 %, DEFault, ICSE 2025) is why none is used; sigmoid's gain per layer, at most 1/4,
    is in Glorot and Bengio, 2010.

    False alarms: parameters registered in another order than they are used in, in a net that lies flat for another
    reason.
    """

    span: float = 1e-6
    gone: float = 1e-3
    early: int = 20
    kinds: tuple[str, ...] = ("grad_vanishing",)

    CALM: ClassVar = (
        [recorded(i, 2.3, *[1.0] * 9) for i in range(60)],
        [recorded(i, 2.3 / (1 + i), *[10.0 ** (k - 9) for k in range(9)]) for i in range(60)],
        [recorded(i, 2.3, 0.0, 0.0, 0.0, *[1.0] * 6) for i in range(60)],
        [recorded(i, 0.9 + 0.4 * 0.5**i, max(0.5**i, 1e-9)) for i in range(60)],
    )
    SICK: ClassVar = (
        [recorded(i, 2.3, *[10.0 ** (k - 9) for k in range(9)]) for i in range(60)],
        [recorded(i, 2.3, 0.0, 0.0, 0.0, 1e-9, *[1.0] * 5) for i in range(60)],
        [recorded(i, 2.3 if i < 20 else 9.0, 1.0 if i < 20 else 1e-8) for i in range(60)],
    )

    def look_back(self, record: RunRecord) -> Finding | None:
        late = flat_at(record)
        if late is None or len({row.optimizer for row in record.steps}) > 1:
            return None
        return self._across_depth(record, late) or self._over_time(record, late)

    def _across_depth(self, record: RunRecord, late: float) -> Finding | None:
        names = record.steps[-1].names
        third = len(names) // 3
        if third < 2:
            return None
        norms = np.median([row.norm for row in record.steps if row.names == names], axis=0).astype(np.float64)
        first, last = norms[:third].max(), norms[-third:].max()
        limit = self.span * last
        if not (first <= limit and np.any((norms > 0) & (norms <= limit))):
            return None
        step, where = record.steps[0].step, names[int(norms[:third].argmax())]
        said = tell(
            "step {step}: no gradient reaches the first layers: that of {where} is {ratio} times that of the last, and "
            "the loss lies flat at {loss}",
            step=step,
            where=where,
            ratio=f"{first / last:.2g}",
            loss=f"{late:.4g}",
        )
        return Finding(
            kind="grad_vanishing", step=step, level=Level.WARN, where=where, value=float(first), limit=float(limit),
            message=said,
        )  # fmt: skip

    def _over_time(self, record: RunRecord, late: float) -> Finding | None:
        if late <= losses_of(record.steps)[0]:
            return None
        norms = [norm_of(row) for row in record.steps]
        limit = self.gone * statistics.median(norms[: self.early])
        since = max((i + 1 for i, norm in enumerate(norms) if norm > limit), default=0)
        if not limit > 0 or since > len(norms) // 2:
            return None
        step, value = record.steps[since].step, statistics.median(norms[since:])
        said = tell(
            "step {step}: the gradient died: its norm fell to {value}, from {before}, and stayed; the loss lies flat "
            "at {loss}, above where it began",
            step=step,
            value=f"{value:.2g}",
            before=f"{limit / self.gone:.2g}",
            loss=f"{late:.4g}",
        )
        return Finding(kind="grad_vanishing", step=step, level=Level.WARN, value=value, limit=limit, message=said)
