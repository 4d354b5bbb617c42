"""What a clipping rule is.

A rule is a frozen dataclass with a name and one pure method. It sees numbers only, never a tensor, keeps nothing, and
so gives the same answer when a record is replayed. It is never shown a measurement that isn't finite, because the belt
skips those before; shown one all the same, it answers Skip.

Beside the class, in the same file, lie CALM and SICK: steps that the rule leaves alone, and steps that it acts on. The
contract tests run every rule in `clip.RULES` through the same laws: never a larger norm than before, direction kept by
Scale, nothing done at or below the limit, twice the same as once, and a larger gradient never gets through larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from gradbelt._types import Action, Floats, History, Keep, Measurement, Scale, Skip
from gradbelt.errors import UsageError


@runtime_checkable
class Rule(Protocol):
    """Decides what becomes of a step's gradients."""

    name: ClassVar[str]
    SOURCE: ClassVar[str]

    def decide(self, seen: Measurement, history: History) -> Action:
        """What to do with the gradients that were measured."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A step that shows what a rule does."""

    rule: Rule
    seen: Measurement
    history: History = History()  # noqa: RUF009 - frozen

    def action(self) -> Action:
        return self.rule.decide(self.seen, self.history)


def measured(*norms: float, weight: float | None = None, lr: float = math.nan) -> Measurement:
    """A measurement made by hand, for examples and tests.

    >>> measured(3.0, 4.0).total
    5.0
    """
    return Measurement(
        call=0, step=0, optimizer=0, names=tuple(f"p{index}" for index in range(len(norms))),
        norm=np.array(norms), total=math.hypot(*norms), lr=lr, weight=None if weight is None else np.array([weight]),
    )  # fmt: skip


def accepted(*totals: float) -> History:
    """A history of accepted steps with these total norms, for examples and tests.

    >>> accepted(1.0, 1.0).median
    1.0
    """
    return History(levels=tuple(math.log(total) for total in totals), accepted=len(totals))


def down_to(limit: float, seen: Measurement) -> Action:
    """The total norm is at most `limit`: Keep where it is already, else Scale."""
    return Keep() if seen.total <= limit else Scale(limit / seen.total)


def norms_of(history: History) -> tuple[Floats, float]:
    """The accepted norms in the window, oldest first, as multiples of the largest, and that one: no square of a
    multiple overflows."""
    levels = np.array(history.levels)
    return np.exp(levels - levels.max()), math.exp(levels.max())


def recent_first(norms: Floats, decay: float) -> Floats:
    """Weights for an average: `decay` to the power of the age, 1 for the newest."""
    weights: Floats = decay ** np.arange(len(norms) - 1, -1, -1, dtype=np.float64)
    return weights


def refuse(seen: Measurement) -> Skip:
    """What a rule answers to a measurement that isn't finite."""
    return Skip(f"total norm is {seen.total}")


def threshold(value: float, what: str) -> float:
    """`value` as a float; UsageError unless it is a number above 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number > 0.0:  # NaN is not
        return number
    raise UsageError(
        f"{what} is {value!r}: a threshold is a number above 0 (inf never clips). To train without clipping, give "
        'clip=None or "none"; to see norms first, gradbelt check SCRIPT proposes one.'
    )
