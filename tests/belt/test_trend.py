"""What follows a number from step to step, and what it takes for a climb."""

import math

import numpy as np
import pytest

from gradbelt._types import KNOWN, Trend
from gradbelt.belt.trend import apart_and_usual, follow, follow_layers, left_first

LIMIT = 8.0  # of the CUSUM, as in `grad_explosion`'s ramp and `divergence`'s


def noise(seed, count, echo=0.0, tails=None):
    """Normal or Student-t noise of which each number foretells `echo` of the next."""
    chance = np.random.default_rng(seed)
    fresh = chance.standard_normal(count) if tails is None else chance.standard_t(tails, count)
    values, last = [], 0.0
    for each in fresh:
        last = echo * last + math.sqrt(1 - echo * echo) * each
        values.append(0.3 * last)
    return values


def climbs(values):
    trend, found = Trend(), []
    for step, value in enumerate(values):
        trend = follow(trend, value, step)
        if trend.climb > LIMIT:
            found.append(step)
    return found


@pytest.mark.parametrize("echo", [0.0, 0.6, 0.9, 0.97])
def test_noise_is_no_climb_however_far_it_foretells_itself(echo):
    """At most one run in twenty of 2000 steps: 2.5 in 100 000 steps, before any other condition."""
    assert sum(bool(climbs(noise(seed, 2000, echo))) for seed in range(20)) <= 1


def test_a_heavy_tail_is_no_climb():
    assert sum(bool(climbs(noise(seed, 2000, tails=4))) for seed in range(20)) <= 1


@pytest.mark.parametrize("echo", [0.0, 0.6])
def test_a_ramp_of_ten_percent_a_step_is_a_climb_within_thirty_steps(echo):
    found = 0
    for seed in range(20):
        ramp = [value + max(0, i - 500) * math.log(1.1) for i, value in enumerate(noise(seed, 530, echo))]
        found += any(step >= 500 for step in climbs(ramp))
    assert found >= 18


def test_a_climb_is_dated_to_where_it_began():
    trend = Trend()
    for step, value in enumerate([0.1 * (i % 3) for i in range(100)] + [0.2 * i for i in range(1, 15)]):
        trend = follow(trend, value, step)
    assert trend.climb > LIMIT
    assert 99 <= trend.since <= 104
    assert trend.quick - trend.base > math.log(3.0)


def test_the_anchor_does_not_adapt():
    """A drift too slow for any step to be a surprise is seen from the lowest level there was."""
    trend = Trend()
    for step in range(3000):
        trend = follow(trend, 0.002 * step + 0.1 * (step % 5), step)
        assert trend.climb <= LIMIT
    assert trend.level - trend.low > math.log(100.0)


def test_what_is_not_finite_changes_nothing():
    trend = follow(follow(Trend(), 1.0, 0), 2.0, 1)
    assert follow(trend, math.nan, 2) == follow(trend, math.inf, 2) == follow(trend, -math.inf, 2) == trend
    names, norms = ("a", "b"), np.array([1.0, 2.0], np.float32)
    layers = follow_layers(None, names, norms, 0)
    assert follow_layers(layers, names, np.array([np.nan, 0.0], np.float32), 1) == layers


def test_a_parameter_that_leaves_is_named_with_the_step_until_it_is_back():
    names = ("a", "b", "c")
    layers = None
    for step in range(KNOWN + 30):
        norms = np.array([1.0 + 0.1 * (step % 3), 1.0, 2.0 + 0.3 * (step % 2)], np.float32)
        if step in (KNOWN + 5, KNOWN + 6):
            norms[1] = 40.0
        if step == KNOWN + 6:
            norms[2] = 90.0
        layers = follow_layers(layers, names, norms, step)
        if step == KNOWN + 6:
            assert left_first(layers) == (("b",), KNOWN + 5)
    assert left_first(layers) == ((), None)


def test_parameters_may_come_and_go():
    """One without a gradient keeps its level; a new one begins without any."""
    layers = None
    for step in range(60):
        names = ("a", "b") if step % 2 else ("b", "a") if step % 4 else ("a",)
        norms = {"a": 1.0 + 0.1 * (step % 3), "b": 5.0 + 0.5 * (step % 3)}
        layers = follow_layers(layers, names, np.array([norms[name] for name in names], np.float32), step)
    apart, usual = apart_and_usual(layers, ("c", "b", "a"), np.array([1.0, 500.0, 1.0], np.float32))
    assert apart[0] == 0.0
    assert math.isnan(usual[0])
    assert usual[1:] == pytest.approx([5.5, 1.1], rel=0.1)
    assert apart[1] > 20.0
    assert abs(apart[2]) < 3.0
