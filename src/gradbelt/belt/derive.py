"""Measurement, History -> Signals; and `learn`, the other side of memory: nothing else ever changes a History."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradbelt._types import (
    APART,
    BEGAN,
    LATELY,
    LOOKS,
    LOSSES,
    RECENT,
    SAMPLES,
    WARM,
    WINDOW,
    Action,
    Activation,
    Course,
    Floats,
    History,
    Measurement,
    Point,
    Signals,
    Skip,
    Trend,
)
from gradbelt.belt.trend import apart_and_usual, follow, follow_layers, mark

PATIENCE = 50  # refusals in a row after which the level is taken to have moved, and learning starts over
LEAP = 1.5  # times the learning rate of the step before
FLOOR = 0.05  # smallest spread of ln(norm) a z is measured in: below 5 % from step to step, nothing is a surprise


def derive(seen: Measurement, history: History, course: Course) -> Signals:
    """A measurement seen against what was accepted before it. `course` already holds this step's losses."""
    total = seen.total
    # an all-zero gradient is calm (-inf is below any limit); nan stays nan and falls on the alarm side
    level = math.log(total) if total > 0 else (-math.inf if total == 0 else math.nan)
    warm = history.accepted >= WARM
    z, ratio = 0.0, 1.0
    if warm:
        middle, spread = middle_and_spread(history.levels)
        z = (level - middle) / max(spread, FLOOR)
        ratio = math.exp(min(level - middle, 700.0)) if level == level else math.nan
    norm = _as_kept(seen.norm)
    apart, usual = apart_and_usual(history.layers, seen.names, norm)
    weight = seen.weight_total
    follows = weight is not None and bool(history.weight_last) and history.weight_at == history.steps - 1
    return Signals(
        call=seen.call,
        step=seen.step,
        optimizer=seen.optimizer,
        total=total,
        level=level,
        z=z,
        ratio=ratio,
        warm=warm,
        losses=seen.losses,
        course=course,
        weight=weight,
        growth=weight / history.weight_last if follows and weight and history.weight_last else 1.0,
        bad=seen.bad,
        worst=_worst(seen),
        names=seen.names,
        peak=seen.peak,
        activations=seen.activations,
        scale=seen.scale,
        moved=_moved(seen),
        piled=seen.piled,
        faint=seen.faint,
        trend=follow(_eased(history, seen), _before_clipping(seen), seen.step),
        norm=norm,
        usual=usual,
        apart=apart,
    )


def middle_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and 1.4826 times the median distance from it: the standard deviation, were they normal.

    Of numbers without nan, at least one. At every step of a run, so the distances are not made and sorted: the `count`
    values nearest the median lie side by side once the values are sorted, and a bisection finds where.

    >>> middle_and_spread([5.0, 1.0, 2.0, 4.0])
    (3.0, 2.2239)
    """
    ranked = sorted(values)
    size, half = len(ranked), len(ranked) // 2
    middle = ranked[half] if size % 2 else (ranked[half - 1] + ranked[half]) / 2

    def distance(count: int) -> float:
        """The `count`-th smallest distance from the median."""
        first = bisect_left(range(size - count), True, key=lambda i: ranked[i + count] - middle >= middle - ranked[i])
        return max(middle - ranked[first], ranked[first + count - 1] - middle)

    far = distance(half + 1)
    return middle, (far if size % 2 else (distance(half) + far) / 2) * 1.4826


def advance(course: Course, seen: Measurement) -> Course:
    """The course with this step's losses added. One that broke is among the recent ones, and nowhere else."""
    if not seen.losses:
        return course
    streams = {**course.streams, **seen.losses}
    if not all(map(math.isfinite, streams.values())):
        broke = Point(seen.step, sum(streams.values()), course.best)
        return replace(course, recent=(*course.recent[1 - RECENT :], broke))
    loss = math.fsum(streams.values())
    if any(where not in course.streams for where in seen.losses):  # the sum now means something else than before
        course = Course()
    return Course(
        streams=streams,
        recent=(*course.recent[1 - RECENT :], Point(seen.step, loss, course.best)),
        start=loss if course.start is None else course.start,
        best=min(course.best, loss),
        window=(*course.window[1 - LOSSES :], loss),
        trend=follow(course.trend, math.log(loss), seen.step) if loss > 0 else course.trend,
    )


def learn(history: History, seen: Measurement, action: Action, total_after: float) -> History:
    """The history after this step. A refused step, or one that is not finite, leaves no trace but its count; and of
    one that is accepted, a number that is not finite leaves none."""
    if isinstance(action, Skip) or not math.isfinite(seen.total):
        refused = history.refused + 1
        known = replace(_as_it_was(history), refused=refused) if refused < PATIENCE else History()
        return replace(known, steps=history.steps + 1)
    weight, moved, shown = seen.weight_total, _moved(seen), tuple(filter(_is_sound, seen.activations))
    sampled = weight is not None and math.isfinite(weight)
    level = math.log(total_after) if total_after > 0 else None
    first = bool(shown) and len(history.began) < BEGAN
    later = bool(shown) and (history.shown_at < 0 or history.steps >= history.shown_at + APART)
    scale = math.nan if seen.scale is None else seen.scale
    layers = follow_layers(history.layers, seen.names, _as_kept(seen.norm), seen.step)
    if seen.weight is not None and sampled:
        layers = mark(layers, seen.names, seen.weight, history.steps)
    return History(
        levels=(*history.levels[1 - WINDOW :], level) if level is not None else history.levels,
        raw=(*history.raw[1 - LATELY :], math.log(seen.total)) if seen.total > 0 else history.raw,
        accepted=history.accepted + (level is not None),
        refused=0,
        weight_start=weight if sampled and history.weight_start is None else history.weight_start,
        weight_last=weight if sampled else history.weight_last,
        weight_at=history.steps if sampled else history.weight_at,
        steps=history.steps + 1,
        began=(*history.began, shown) if first else history.began,
        lately=(*history.lately[1 - SAMPLES :], shown) if later else history.lately,
        shown_at=history.steps if later else history.shown_at,
        trend=follow(_eased(history, seen), _before_clipping(seen), seen.step),
        layers=layers,
        lr=seen.lr if math.isfinite(seen.lr) else history.lr,
        steady=0 if leapt(history, seen) else history.steady + 1,
        scales=(*history.scales[1 - LATELY :], scale) if math.isfinite(scale) else history.scales,
        moved=history.moved if moved is None else (*history.moved[1 - LOOKS :], moved),
    )


def _moved(seen: Measurement) -> float | None:
    """By what share of itself half of the matrices, or more, were changed."""
    known = np.zeros(0) if seen.moved is None else seen.moved[np.isfinite(seen.moved)]
    return float(np.median(known)) if len(known) else None


def _is_sound(shown: Activation) -> bool:
    """Whether it did not break: its size is a number, by one of the two that say it."""
    sizes = (shown.rms, shown.peak)
    return not any(map(math.isinf, sizes)) and any(map(math.isfinite, sizes))


def _as_it_was(history: History) -> History:
    """A step was refused, and has moved no weight: what was read before it is as good as read after it."""
    layers = history.layers
    if layers is not None and layers.weights:
        layers = replace(layers, weights=tuple((at + 1, norms) for at, norms in layers.weights))
    clocks = {name: at + 1 for name in ("weight_at", "shown_at") if (at := getattr(history, name)) >= 0}
    return replace(history, layers=layers, **clocks)


def leapt(history: History, seen: Measurement) -> bool:
    """Whether the learning rate is `LEAP` times that of the step before, or more: a restart, or a schedule's jump."""
    return LEAP * history.lr < seen.lr < math.inf  # nan, of a loop by hand, is not


def _eased(history: History, seen: Measurement) -> Trend:
    """The trend to judge this step by: a leap of the learning rate moves the level, which has to be learnt anew."""
    return Trend() if leapt(history, seen) else history.trend


def _before_clipping(seen: Measurement) -> float:
    """ln of the total norm that backward left; -inf or nan where it has none."""
    total = seen.total if seen.unclipped is None else seen.unclipped
    return math.log(total) if total > 0 else -math.inf if total == 0 else math.nan


def _as_kept(norms: Floats) -> Floats:
    """Norms as the black box keeps them, so that a replay finds what was found live."""
    with np.errstate(over="ignore"):
        return norms.astype(np.float32)


def _worst(seen: Measurement, most: int = 3) -> tuple[str, ...]:
    """Parameters holding the largest share of the squared norm; those that are not finite come first."""
    if seen.bad:
        return tuple(seen.bad)[:most]
    # largest last; of equal norms the later parameter, for the black box keeps float32, in which more norms are equal
    with np.errstate(over="ignore"):
        order = np.argsort(seen.norm.astype(np.float32), kind="stable")[: -most - 1 : -1].tolist()
    return tuple(seen.names[i] for i in order)
