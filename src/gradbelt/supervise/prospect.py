"""Whether a trial may still come to learn; one that can't is over there and then."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

LOST = "lost"  # kind of event: why a trial was not let go on
TAIL = 0.1  # share of the steps whose median is the loss a run ends with
LEARNT = 0.9  # of the loss it started with: above it nothing was learnt
FEWEST = 5  # losses in a median, and at the start
DEAD = 30  # steps in a row that were not finite, or far out
FAR = 1e4  # times the largest loss of the first steps


class Prospect:
    """Is told of every step, and says why the run is lost once it is.

    A run is lost after DEAD steps in a row that were not finite, or whose loss was FAR above those of its first steps;
    and where it has learnt nothing by the step `par`.

    >>> prospect = Prospect()
    >>> whys = [prospect.lost(step, {"a": 1.0 if step < 9 else math.nan}, 1.0) for step in range(39)]
    >>> whys[37], whys[38]
    (None, '30 steps in a row were not finite')
    """

    def __init__(self, par: int | None = None) -> None:
        self._par = par
        self._losses: list[tuple[int, float]] = []
        self._dead = self._far = 0

    def lost(self, step: int, losses: Mapping[str, float], total: float) -> str | None:
        """Why nothing is to be hoped for; None while something is.

        Args:
            losses: By where they go backward. total: The gradient's norm.
        """
        loss = math.fsum(losses.values()) if all(map(math.isfinite, losses.values())) else math.nan
        self._dead = 0 if math.isfinite(loss) and math.isfinite(total) else self._dead + 1
        if self._dead >= DEAD:
            return f"{DEAD} steps in a row were not finite"
        if not losses:
            return None
        first = [abs(value) for _, value in self._losses[:FEWEST] if math.isfinite(value)]
        self._far = self._far + 1 if len(first) >= FEWEST and not abs(loss) <= FAR * max(first) else 0
        if self._far >= DEAD:
            return f"for {DEAD} steps in a row the loss was {FAR:g} times what it began with"
        if self._par is None:
            self._losses = [*self._losses[:FEWEST], (step, loss)][:FEWEST]
            return None
        self._losses.append((step, loss))
        if step == self._par and not learnt(self._losses):
            return f"nothing was learnt in {step + 1} steps, in which others had"
        return None


def first_loss(losses: Sequence[tuple[int, float]]) -> float | None:
    """The first finite one of (step, loss)."""
    return next((loss for _, loss in losses if math.isfinite(loss)), None)


def last_loss(losses: Sequence[tuple[int, float]]) -> float | None:
    """Median of the finite losses in the last tenth; None where there are none."""
    tail = [loss for _, loss in losses[-max(FEWEST, int(TAIL * len(losses))) :] if math.isfinite(loss)]
    return statistics.median(tail) if tail else None


def learnt(losses: Sequence[tuple[int, float]]) -> bool:
    """Whether the losses end well below where they began: 0.9 of it, or that much lower where it was negative.

    The first loss tells where they began. Where batches differ widely that may have been a lucky one: losses that end
    below it have sunk as well if they did so from quarter to quarter.

    >>> batches = [0.6, 1.2, 0.9, 1.4, 1.0] * 16
    >>> learnt([(i, batch * (1 - i / 180)) for i, batch in enumerate(batches)]), learnt(list(enumerate(batches)))
    (True, False)
    >>> learnt(list(enumerate([2.3, 2.9, 4.1, 3.5, 2.7] + [2.4, 2.35, 2.31] * 6 + [2.3, 2.29, 2.28, 2.29] * 9)))
    False
    """
    start, end = first_loss(losses), last_loss(losses)
    if start is None or end is None or not end < start:
        return False
    return _is_below(end, start) or _sinks([loss for _, loss in losses if math.isfinite(loss)])


def _sinks(losses: Sequence[float]) -> bool:
    """Whether losses of widely differing batches fall from quarter to quarter, and by enough from first to last.

    The first few lie no further apart than the last do: a run that leaps and comes back sinks, too, and learns
    nothing.
    """
    first, last, quarter = losses[:FEWEST], losses[-max(FEWEST, int(TAIL * len(losses))) :], len(losses) // 4
    level, end = statistics.median(first), statistics.median(last)
    if quarter < FEWEST or (max(first) - min(first)) * abs(end) > (max(last) - min(last)) * abs(level):
        return False
    levels = [statistics.median(losses[i * quarter : (i + 1) * quarter]) for i in range(4)]
    return all(b < a for a, b in pairwise(levels)) and _is_below(levels[3], levels[0])


def _is_below(end: float, start: float) -> bool:
    return end < start - (1 - LEARNT) * abs(start)


def learnt_by(losses: Sequence[tuple[int, float]]) -> int | None:
    """The step from which on the losses so far have always been such that something was learnt; None where they end
    otherwise.

    >>> learnt_by([(step, 1.0 if step < 20 else 0.5) for step in range(60)])
    22
    """
    found = None
    for count in range(len(losses), 0, -1):
        if not learnt(losses[:count]):
            break
        found = losses[count - 1][0]
    return found
