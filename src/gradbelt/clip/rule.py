"""What a clipping rule is.

A rule is a frozen dataclass with a name and one pure method. It sees numbers only, never a tensor, keeps nothing, and
so gives the same answer when a record is replayed. It is never shown a measurement that isn't finite, because the belt
skips those before; shown one all the same, it answers Skip.

Beside the class, in the same file, lie CALM and SICK: steps that the rule leaves alone, and steps that it acts on. The
contract tests run every rule in `clip.RULES` through the same laws: never a larger norm than before, direction kept by
Scale, nothing done at or below the limit, twice the same as once, and a larger gradient never gets through larger.
"""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np

from gradbelt._types import Action, Floats, History, Keep, Measurement, Scale, ScaleEach, Skip
from gradbelt.errors import UsageError


@runtime_checkable
class Rule(Protocol):
    """Decides what becomes of a step's gradients."""

    name: ClassVar[str]
    SOURCE: ClassVar[str]

    def decide(self, seen: Measurement, history: History) -> Action:
        """What to do with the gradients that were measured."""
        ...


Notes: TypeAlias = dict[str, tuple[float, ...]]


class Noting(Rule, Protocol):
    """A rule that needs more of the past than the history has. It still keeps nothing: the belt does, in the history.

    Notes are made of accepted steps only, so a refused one leaves no trace in them either; they are saved with the
    belt, and start over where the history does. They are plain numbers under plain names, a rule's own to choose.
    """

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """What changes in `history.notes` through a step that was accepted: measured as `seen`, then acted on.

        An empty tuple takes a note away.
        """
        ...


def takes_notes(rule: Rule | None) -> TypeGuard[Noting]:
    """Whether a rule is a Noting."""
    return hasattr(rule, "note")  # isinstance of a protocol costs 15 us in Python 3.11, at every step


class Foreseeing(Rule, Protocol):
    """A rule that only holds the total L2 norm to a limit, and knows that limit before the gradient is there."""

    def limit_ahead(self, history: History) -> float | None:
        """The limit on the step that follows this history, inf for none; None where the past alone can't tell it.

        `decide` keeps a step whose total is at most this, and scales any other down to it.
        """
        ...


def foresees(rule: Rule | None) -> TypeGuard[Foreseeing]:
    """Whether a rule is a Foreseeing."""
    return hasattr(rule, "limit_ahead")


def limit_ahead(rule: Rule | None, history: History, place: str = "0") -> float | None:
    """The limit that the rule at this place will hold the next step to, inf where there is no rule."""
    if rule is None:
        return math.inf
    return rule.limit_ahead(own(history, rule, place)) if foresees(rule) else None


def own(history: History, rule: Rule, place: str) -> History:
    """The history as one rule among several sees it: its own notes, under their own names."""
    if not takes_notes(rule):
        return history
    prefix = f"{place}.{rule.name}:"
    mine = {name.removeprefix(prefix): kept for name, kept in history.notes.items() if name.startswith(prefix)}
    return replace(history, notes=mine)


def noted(notes: Mapping[str, tuple[float, ...]], rule: Rule, place: str) -> Notes:
    """A rule's notes under names that no other rule's have: what `own` finds again."""
    return {f"{place}.{rule.name}:{name}": kept for name, kept in notes.items()}


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


MARGIN = 1.0 + 2.0**-16  # a norm read in float32 may come out this much too low
STEP = 1.0 + 2.0**-22  # times a limit: norms that a float32 can't tell from it


def as_kept(norm: Floats) -> Floats:
    """Norms as the black box keeps them, float32: a rule that goes by these decides the same in a replay.

    Above 3.4e38, where that has inf, as they were measured.
    """
    with np.errstate(over="ignore"):
        kept = norm.astype(np.float32).astype(np.float64)
    return np.where(np.isinf(kept), norm, kept)


@functools.lru_cache(maxsize=64)
def first_match(patterns: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """Of each name the index of the first pattern (fnmatch) that it matches; -1 for none."""
    return tuple(
        next((i for i, pattern in enumerate(patterns) if fnmatch.fnmatchcase(name, pattern)), -1) for name in names
    )


def each_down_to(limits: Floats, seen: Measurement) -> Action:
    """The norm of each gradient is at most its limit (P,), to float32's precision: ScaleEach, or Keep if all are."""
    norms = as_kept(seen.norm)
    above = ~(norms <= limits * STEP)
    if not above.any():
        return Keep()
    coefficients = np.ones(len(norms))
    coefficients[above] = limits[above] / norms[above]
    return ScaleEach(tuple(coefficients.tolist()))


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
        'clip=None or "none"; to see norms first, gradbelt run SCRIPT proposes one.'
    )
