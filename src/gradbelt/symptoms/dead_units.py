"""Units that put out nothing, or that used to learn and have no gradient any more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord, StepRecord
from gradbelt.symptoms.rows import recorded
from gradbelt.symptoms.shown import looks, shown, since_when
from gradbelt.symptoms.stalled import flat_at


def _dying(before: float, after: float, *, loss: float = 0.0) -> list[StepRecord]:
    """Steps with this share of zeros in the first of two gradients, before and after the tenth."""
    return [
        recorded(i, 2.3 - loss * i / 60, 1.0, 1.0, zeros=np.array([before if i < 10 else after, 0.0]), peak=np.ones(2))
        for i in range(60)
    ]


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """Units that put out 0 for all that they were given, or whose gradient became zero, at every look in the last half
    of the run, while the loss lies flat, as `stalled` counts it.

    A ReLU that is negative for every row of every batch is dead: nothing comes back through it. Seen in two places.
    Where activations are sampled: `units` of all units behind a ReLU were 0 in every row looked at; a warning. In the
    gradients: a parameter whose gradient was mostly not zero at the first `first` looks is zero in all but 1 - `dead`
    of its elements; only watched, for an embedding whose rows are seldom asked for comes near it (one that begins as
    it goes on is not meant). In hindsight, dated to the first look from which it stays so. Source: dying ReLUs, Lu et
    al., 2020; the share of 0.7 at one look, as AutoTrainer has it, flags healthy ReLU nets.

    False alarms: a part that the script switches off, by a mask or a weight of 0, in a run that lies flat.
    """

    alive: float = 0.5
    dead: float = 0.99
    first: int = 5
    units: float = 0.9
    kinds: tuple[str, ...] = ("dead_units",)

    CALM: ClassVar = (
        _dying(0.2, 0.9),
        _dying(0.98, 1.0),
        _dying(0.2, 1.0, loss=2.0),
        [*_dying(0.2, 1.0)[:-1], _dying(0.2, 0.5)[-1]],
        [shown(i, 2.3, "relu", dead=0.8) for i in range(120)],
        [shown(i, 2.3 / (1 + i), "relu", dead=1.0) for i in range(120)],
        [shown(i, 2.3, "relu", dead=1.0 if i > 90 else 0.0) for i in range(120)],
    )
    SICK: ClassVar = (_dying(0.2, 1.0), [shown(i, 2.3, "relu", dead=0.1 if i < 20 else 0.95) for i in range(120)])

    def look_back(self, record: RunRecord) -> Finding | None:
        if flat_at(record) is None:
            return None
        return self._in_activations(record) or self._in_gradients(record)

    def _in_activations(self, record: RunRecord) -> Finding | None:
        rows = len(record.steps)
        found = [
            (since, place, seen[-1][1])
            for place, seen in looks(record.steps, ("relu",), "dead").items()
            if (since := since_when(seen, rows, self.units)) is not None
        ]
        if not found:
            return None
        since, place, share = min(found, key=lambda each: each[0])
        step = record.steps[since].step
        said = tell(
            "step {step}: {share} of the units at {where} put out 0 whatever they are given from here on (places: "
            "{count}); they no longer learn",
            step=step,
            share=f"{share:.0%}",
            where=place.name,
            count=len(found),
        )
        return Finding(
            kind="dead_units", step=step, level=Level.WARN, where=place.name, value=share, limit=self.units,
            message=said,
        )  # fmt: skip

    def _in_gradients(self, record: RunRecord) -> Finding | None:
        shares: dict[str, list[tuple[int, float]]] = {}
        for at, row in enumerate(record.steps):
            if row.zeros is not None:
                for name, share in zip(row.names, row.zeros.tolist(), strict=True):
                    if math.isfinite(share):
                        shares.setdefault(name, []).append((at, share))
        found = {name: self._since(seen, len(record.steps)) for name, seen in shares.items()}
        since = {name: at for name, at in found.items() if at is not None}
        if not since:
            return None
        where = min(since, key=lambda name: since[name])
        step = record.steps[since[where]].step
        said = tell(
            "step {step}: the gradient of {where} is zero nearly everywhere from here on (parameters: {count}); its "
            "units no longer learn",
            step=step,
            where=where,
            count=len(since),
        )
        return Finding(
            kind="dead_units", step=step, level=Level.WATCH, where=where, value=shares[where][-1][1], limit=self.dead,
            message=said,
        )  # fmt: skip

    def _since(self, seen: list[tuple[int, float]], rows: int) -> int | None:
        """The row from which a gradient was zero to the end, where that is half of the run and it once was not."""
        if len(seen) <= 2 * self.first or not all(share < self.alive for _, share in seen[: self.first]):
            return None
        living = max(i for i, (_, share) in enumerate(seen) if not share >= self.dead)
        if living == len(seen) - 1 or seen[living + 1][0] > rows // 2:
            return None
        return seen[living + 1][0]
