"""Units that used to learn have no gradient any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord, StepRecord
from gradbelt.symptoms.rows import recorded
from gradbelt.symptoms.stalled import flat_at


def _dying(before: float, after: float, *, loss: float = 0.0) -> list[StepRecord]:
    """Steps with this share of zeros in the first of two gradients, before and after the tenth."""
    return [
        recorded(i, 2.3 - loss * i / 60, 1.0, 1.0, zeros=np.array([before if i < 10 else after, 0.0]), peak=np.ones(2))
        for i in range(60)
    ]


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """Parameters whose gradient was mostly not zero at the first `first` looks, and is zero in all but 1 - `dead` of
    its elements at every look in the last half of the run, while the loss lies flat, as `stalled` counts it.

    What dying ReLUs leave in the gradients: a unit that is negative for every row of every batch gets none. An
    embedding whose rows are seldom asked for begins as it goes on, and is not meant. Only watched, in hindsight: zeros
    are counted at the first ten steps, and at every tenth. Dated to the first look from which it stays so. Source:
    dying ReLUs, Lu et al., 2020; the share of 0.7 at one look, as AutoTrainer has it, flags healthy ReLU nets.

    False alarms: a part that the script switches off, by a mask or a weight of 0, in a run that lies flat.
    """

    alive: float = 0.5
    dead: float = 0.99
    first: int = 5
    kinds: tuple[str, ...] = ("dead_units",)

    CALM: ClassVar = (
        _dying(0.2, 0.9),
        _dying(0.98, 1.0),
        _dying(0.2, 1.0, loss=2.0),
        [*_dying(0.2, 1.0)[:-1], _dying(0.2, 0.5)[-1]],
    )
    SICK: ClassVar = (_dying(0.2, 1.0),)

    def look_back(self, record: RunRecord) -> Finding | None:
        if flat_at(record) is None:
            return None
        looks: dict[str, list[tuple[int, float]]] = {}
        for at, row in enumerate(record.steps):
            if row.zeros is not None:
                for name, share in zip(row.names, row.zeros.tolist(), strict=True):
                    looks.setdefault(name, []).append((at, share))
        found = {name: self._since(seen, len(record.steps)) for name, seen in looks.items()}
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
            kind="dead_units", step=step, level=Level.WATCH, where=where, value=looks[where][-1][1], limit=self.dead,
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
