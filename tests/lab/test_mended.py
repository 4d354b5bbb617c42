"""What calibration found wrong with the detectors, and was mended: each a healthy or a sick run made small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradbelt._types import Level, RunRecord
from gradbelt.belt.judge import onset, replay
from gradbelt.symptoms.rows import recorded


def said(rows):
    """(step, kind, level) of everything that is said of these rows."""
    record = RunRecord(folder=Path(), meta={}, steps=tuple(rows))
    return [(row.step, f.kind, f.level) for row, verdict, _ in replay(record) for f in verdict]


def divergence(losses, weight=lambda i: 1.0 + 0.1 * i):
    rows = [recorded(i, loss, 1.0, weight=np.array([weight(i)])) for i, loss in enumerate(losses)]
    return [step for step, kind, level in said(rows) if kind == "divergence" and level is Level.ALARM]


def test_weights_that_are_read_every_tenth_step_are_seen_to_explode_in_between():
    """A flipped bit in a weight that no batch needs yet: the loss and the gradients are as ever."""

    def rows(flip):
        looks = {i: np.array([1e37 if i >= flip else 5.0]) for i in range(60) if i < 10 or i % 10 == 0}
        return [recorded(i, 1.0, 1.0, weight=looks.get(i)) for i in range(60)]

    assert said(rows(flip=99)) == []
    assert said(rows(flip=45)) == [(50, "grad_explosion", Level.WARN)]


def test_weights_that_double_between_two_looks_are_let_be():
    rows = [recorded(i, 1.0, 1.0, weight=np.array([5.0 * 1.07**i]) if i % 10 == 0 else None) for i in range(60)]
    assert said(rows) == []


def test_an_agents_losses_of_which_one_is_twenty_times_another_have_not_diverged():
    """As long as it learns; drawn from a lognormal, of whose best no line can be drawn as if it were the usual."""
    rng = np.random.default_rng(0)
    for spread in (0.3, 0.6):
        assert not divergence([8.0, *(25 * rng.lognormal(0, spread, 1500))])


def test_errors_squared_one_by_one_jump_a_hundredfold_and_have_not_diverged():
    """The best of them is next to nothing, and where it started is where it often is."""
    for seed in range(3):
        assert not divergence([0.5, *(0.25 * np.random.default_rng(seed).normal(size=700) ** 2)])
    rng = np.random.default_rng(0)
    found = divergence([0.5, *(0.25 * rng.normal(size=300) ** 2), *(1e3 * rng.normal(size=60) ** 2)])
    assert found
    assert 300 < found[0] < 320


def test_a_curriculums_next_stage_is_waited_for():
    """Above the start for a while, and falling back from step to step."""
    harder = [2.3, *(0.01 for _ in range(200)), *(8.0 * 0.85**i + 0.3 for i in range(100))]
    assert not divergence(harder)
    assert not divergence([2.3, *(0.01 for _ in range(200)), 7.0, 6.8, 4.4, 2.2, 2.6, 1.9, 1.5, 1.1, *([0.4] * 50)])


def test_what_stays_up_or_falls_back_from_far_above_is_told():
    up = [2.3, *(0.01 for _ in range(200))]
    assert divergence([*up, *([8.0, 7.0, 8.5] * 10)])
    assert divergence([*up, *(1e6 * 0.9**i for i in range(30))])
    assert divergence([1.0 * 1.05**i for i in range(120)])


def test_a_noisy_loss_that_does_diverge_is_told_all_the_same():
    rng = np.random.default_rng(0)
    losses = [*rng.lognormal(0, 0.5, 300), *(rng.lognormal(0, 0.5, 60) * np.exp(0.2 * np.arange(60)))]
    found = divergence([5.0, *losses])
    assert found
    assert 300 < found[0] < 350


def verdict_of(losses):
    rows = [recorded(i, loss, 1.0, weight=np.array([1.0 + 0.1 * i])) for i, loss in enumerate(losses)]
    return onset(RunRecord(folder=Path(), meta={}, steps=tuple(rows)))


def test_a_divergence_in_doubt_dates_the_one_that_came_of_it_and_none_that_did_not():
    """It swings back below the line, but not to where it was, and is lost; or it is as low again."""
    calm, swing = [2.3, *(0.3 for _ in range(50))], [10.7, 4.2, 4.5, 3.2, 2.0, 0.9]
    lost = verdict_of([*calm, *swing, *([500.0, 520.0] * 10)])
    assert (lost.exploded, lost.bad_step) == (True, 51)
    back = verdict_of([*calm, *swing, *([0.3] * 50)])
    assert not back.exploded
    later = verdict_of([*calm, *swing, *([0.3] * 50), *([500.0, 520.0] * 10)])
    assert (later.exploded, later.bad_step) == (True, 107)
