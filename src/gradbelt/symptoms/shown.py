"""What activations have been, and what the loss did meanwhile: what detectors that look at them have in common."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from gradbelt._types import Activation, Course, History, StepRecord
from gradbelt.symptoms.rows import recorded
from gradbelt.symptoms.stalled import LEFT

STILL = 0.05  # a loss that falls by less than this share of its level lies still
ENOUGH = 30  # losses that it takes to say so
EVERY = 10  # of the steps of CALM and SICK is one at which activations were sampled


def alike(samples: Sequence[tuple[Activation, ...]], one: Activation) -> list[Activation]:
    """The same place in earlier samples, oldest first."""
    return [each for sample in samples for each in sample if (each.name, each.kind) == (one.name, one.kind)]


def at_first(history: History, one: Activation, what: str) -> float:
    """The median of a number over the first samples of a place; nan where there was none."""
    numbers = [getattr(each, what) for each in alike(history.began, one)]
    return statistics.median(numbers) if numbers else float("nan")


def lies_still(course: Course) -> bool:
    """Whether the loss fell by less than STILL of its level over the window, a fifth at each end; risen counts, too."""
    if len(course.window) < ENOUGH:
        return False
    before, after = _ends(course)
    return before - after < STILL * abs(before)


def has_learnt(course: Course) -> bool:
    """Whether the loss stands at LEFT of where it began or below, by the last fifth of the window; only a positive one.

    A loss that has been learnt on may lie still, or jump about: what it is of its start says what noise cannot.
    """
    start = course.start or 0.0
    return start > 0 and bool(course.window) and _ends(course)[1] <= LEFT * start


def _ends(course: Course) -> tuple[float, float]:
    """The medians of the first and of the last fifth of the window."""
    losses, fifth = course.window, max(len(course.window) // 5, 1)
    return statistics.median(losses[:fifth]), statistics.median(losses[-fifth:])


def looks(record: Sequence[StepRecord], kinds: Sequence[str], what: str) -> dict[Activation, list[tuple[int, float]]]:
    """Each place of one of these kinds, with the rows at which it was looked at and a number of it, in order."""
    found: dict[tuple[str, str], tuple[Activation, list[tuple[int, float]]]] = {}
    for at, row in enumerate(record):
        for each in row.activations:
            if each.kind in kinds and math.isfinite(getattr(each, what)):  # nan: nothing to say
                _, seen = found.setdefault((each.name, each.kind), (each, []))
                seen.append((at, getattr(each, what)))
    return dict(found.values())


def since_when(seen: Sequence[tuple[int, float]], rows: int, limit: float) -> int | None:
    """The row from which a number was at least `limit` at each look up to the end; None unless that is half of the run.

    It takes three looks in that half.
    """
    held = len(seen)
    while held and seen[held - 1][1] >= limit:
        held -= 1
    late = sum(at >= rows // 2 for at, _ in seen[held:])
    return seen[held][0] if late >= 3 and seen[held][0] <= rows // 2 else None


def shown(step: int, loss: float, kind: str, **numbers: float) -> StepRecord:
    """The row of a step for CALM and SICK, with one activation at every tenth."""
    one = Activation(name="block", kind=kind, **{name: float(np.float32(value)) for name, value in numbers.items()})
    return recorded(step, loss, 1.0, 1.0, **({"activations": (one,)} if step % EVERY == 1 else {}))
