"""What follows a number, and each parameter's norm, from step to step: Trend -> Trend, Layers -> Layers.

The recipe is a one-sided CUSUM on what one step does not foretell of the next (Page, 1954; AR(1)-whitened as in Alwan
and Roberts, 1988), with distances held to a few deviations, so that a heavy tail counts as one surprise and no more.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from gradbelt._types import KNOWN, MARKS, RECENT, SPAN, WARM, Floats, Layers, Trend

SLOW = 0.01  # share of a distance by which the level follows, once the trend is known
QUICK = 0.1  # by which the quick level does
STEP_MOST = 4.0  # deviations that one step can count for
SLACK = 1.0  # deviations a step that the climb forgives
STEEP = 3.0  # a climb above that is not learnt from, but for the level
MOST = 30.0  # the climb is counted no further
ECHO_MOST = 0.95
NARROW = 0.05  # smallest deviation of a logarithm: below 5 % from step to step, nothing is a surprise

AWAY, BACK = 4.0, 2.0  # deviations at which a parameter leaves its past, and at which it is back
LAYER_SLOW = 0.02


def follow(trend: Trend, value: float, step: int) -> Trend:
    """The trend with one more logarithm; one that is not finite changes nothing."""
    if not math.isfinite(value):
        return trend
    count = trend.count
    if count == 0:
        return Trend(count=1, level=value, quick=value, tail=(value,))
    deviation = max(math.sqrt(trend.spread), NARROW)
    # what is learnt is held to a few deviations; before WARM the first distances are all there is to learn from
    most = STEP_MOST * deviation if count >= WARM else math.inf
    distance = value - trend.level
    held, before = (min(max(each, -most), most) for each in (distance, trend.last))
    known = count >= KNOWN
    climb, since, base = 0.0, -1, 0.0
    if known:
        echo = min(max(trend.echo / trend.spread, 0.0), ECHO_MOST) if trend.spread > 0 else 0.0
        news = (distance - echo * trend.last) / (deviation * math.sqrt(1.0 - echo * echo))
        climb = min(max(0.0, trend.climb + min(max(news, -STEP_MOST), STEP_MOST) - SLACK), MOST)
        if climb > 0.0:
            since, base = (trend.since, trend.base) if trend.climb > 0.0 else (step, trend.quick)
    share = max(SLOW, 1.0 / (count + 1))
    quick = trend.quick + max(QUICK, 1.0 / (count + 1)) * (value - trend.quick)
    level = trend.level + share * held
    learnt = share if climb < STEEP else 0.0  # or a ramp would soon be taken for noise
    return Trend(
        count=count + 1,
        level=level,
        spread=trend.spread + learnt * (held * held - trend.spread),
        echo=trend.echo + learnt * (held * before - trend.echo),
        last=distance,
        climb=climb,
        since=since,
        base=base,
        quick=quick,
        low=min(trend.low, level) if known else trend.low,
        tail=(*trend.tail[1 - RECENT :], value),
    )


def follow_layers(layers: Layers | None, names: tuple[str, ...], norms: Floats, step: int) -> Layers:
    """The levels with one more gradient of each of these parameters; `norms` as the black box keeps them.

    A gradient that is zero or not finite changes nothing of its level.
    """
    layers, at = _with(layers, names)
    count, level, spread, left = layers.table[:, at]
    value = _logarithm(norms)
    known = np.isfinite(value)
    distance = np.where(known, value - level, 0.0)
    apart = distance / np.maximum(spread, NARROW)
    most = np.where(count >= WARM, STEP_MOST * np.maximum(spread, NARROW), np.inf)
    distance = np.clip(distance, -most, most)
    share = np.where(known, np.maximum(LAYER_SLOW, 1.0 / (count + 1.0)), 0.0)
    away, home = known & (count >= WARM) & (apart > AWAY), known & (apart < BACK)
    new = np.array(
        [
            count + known,
            level + share * distance,
            spread
            + share * np.where(count > 0, 1.2533 * np.abs(distance) - spread, 0.0),  # sqrt(pi / 2), were it normal
            np.where(away & (left < 0), step, np.where(home, -1.0, left)),
        ]
    )
    if isinstance(at, slice):
        return replace(layers, table=new)
    table = layers.table.copy()
    table[:, at] = new
    return replace(layers, table=table)


def apart_and_usual(layers: Layers | None, names: tuple[str, ...], norms: Floats) -> tuple[Floats, Floats]:
    """How many deviations each ln(norm) stands from its level, and that level as a norm; 0 and nan while not known."""
    if layers is None:
        return np.zeros(len(names)), np.full(len(names), np.nan)
    layers, at = _with(layers, names)
    count, level, spread, _ = layers.table[:, at]
    known, value = count >= WARM, _logarithm(norms)
    apart = np.where(known & np.isfinite(value), (value - level) / np.maximum(spread, NARROW), 0.0)
    return apart, np.where(known, np.exp(level), np.nan)


def mark(layers: Layers, names: tuple[str, ...], weights: Floats, at: int) -> Layers:
    """With the norms of the weights as they were before step `at` of their optimizer, where the last are long ago."""
    if names != layers.names or (layers.weights and at < layers.weights[-1][0] + SPAN):
        return layers
    return replace(layers, weights=(*layers.weights[1 - MARKS :], (at, weights.astype(np.float64))))


def left_first(layers: Layers | None) -> tuple[tuple[str, ...], int | None]:
    """The parameters, at most three, that left their levels before all others, and the step; none where all are at
    home."""
    away = np.flatnonzero(layers.left >= 0) if layers is not None else ()
    if layers is None or not len(away):
        return (), None
    since = layers.left[away].min()
    return tuple(layers.names[i] for i in away[layers.left[away] == since][:3].tolist()), int(since)


def _logarithm(norms: Floats) -> Floats:
    """nan where it is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(norms.astype(np.float64))
    value[~np.isfinite(value)] = np.nan
    return value


def _with(layers: Layers | None, names: tuple[str, ...]) -> tuple[Layers, Any]:
    """Layers that know all of these names, and where these lie among them."""
    if layers is None:
        return Layers(names=names, table=_fresh(len(names))), slice(None)
    if layers.names == names:  # nearly always, and then nearly always the same tuple
        return layers, slice(None)
    places = {name: i for i, name in enumerate(layers.names)}
    more = [name for name in dict.fromkeys(names) if name not in places]
    if more:
        places |= {name: len(layers.names) + i for i, name in enumerate(more)}
        table = np.concatenate([layers.table, _fresh(len(more))], axis=1)
        layers = Layers(names=(*layers.names, *more), table=table)
    return layers, [places[name] for name in names]


def _fresh(count: int) -> Floats:
    table = np.zeros((4, count))
    table[3] = -1.0
    return table
