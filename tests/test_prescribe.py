"""What is prescribed, and what is said about clipping."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradbelt._types import Evidence, Outcome, Seeds, Suspicion
from gradbelt.belt.judge import onset
from gradbelt.causes import Case, suspect
from gradbelt.prescribe import advise_clip, prescribe
from gradbelt.testing import make_run
from gradbelt.trials.judge import Metric


def outcome(remedy, what, loss, metric=None):
    return Outcome(remedy=remedy, outcome=what, steps=60, loss=loss, metric=metric, seconds=1.0, clip_rate=0.1)


CONTROL = outcome("", "nonfinite", None)


@pytest.fixture(scope="module")
def case():
    record = make_run("explodes")
    return Case(record=record, onset=onset(record), evidence=Evidence(reproduced=True))


def of(case, *outcomes, metric=None):
    case = replace(case, outcomes=outcomes)
    return prescribe(case, suspect(case), metric=metric)


def test_among_equals_the_least_invasive_comes_first(case):
    """An initialisation that is a hair better does not outrank a line of configuration."""
    found = of(case, CONTROL, outcome("he_init", "learning", 0.100), outcome("clip_norm=1.0", "learning", 0.103))
    assert [p.remedies for p in found][:2] == [("clip_norm=1.0",), ("he_init",)]
    assert all(p.verified for p in found[:2])


def test_what_learns_much_worse_is_not_prescribed(case):
    found = of(case, CONTROL, outcome("lower_lr=0.1", "learning", 0.1), outcome("clip_norm=1.0", "learning", 0.9))
    assert found[0].remedies == ("lower_lr=0.1",)
    assert ("clip_norm=1.0",) not in [p.remedies for p in found]


def test_a_second_choice_that_is_proven_comes_before_what_was_never_tried(case):
    """Where one remedy alone learns best, the simplest other one that also came nearly all the way down."""
    lower = replace(outcome("he_init", "learning", 0.03), curve=((0, 2.3), (60, 0.03)))
    deeper = outcome("he_init+skip_connection", "learning", 0.02)
    found = of(case, CONTROL, deeper, outcome("lsuv", "learning", 0.001), lower)
    assert [(p.remedies, p.verified) for p in found] == [(("lsuv",), True), (("he_init",), True)]
    assert [p.remedies for p in of(case, CONTROL, outcome("lsuv", "learning", 0.001)) if p.verified] == [("lsuv",)]


def test_nothing_is_prescribed_for_a_cause_hardly_suspected(case):
    cured = replace(case, outcomes=(CONTROL, outcome("clip_norm=1.0", "learning", 0.1)))
    likely = Suspicion(cause="learning_rate", confidence=0.95)
    for confidence, shown in ((0.05, False), (0.5, True)):
        suspicions = likely, Suspicion(cause="depth", confidence=confidence)
        found = {name for p in prescribe(cured, suspicions) for name in p.remedies}
        assert ("skip_connection" in found) == shown
        assert "lower_lr" in found


def test_a_first_loss_that_has_exploded_is_no_measure_of_what_is_equally_good(case):
    """A loss of 3e6 is far from 1e9, where the run began, and no cure beside one of 0.1."""
    steps = tuple(
        replace(row, losses={where: 1e9 * loss for where, loss in row.losses.items()}) for row in case.record.steps
    )
    worse = replace(outcome("clip_norm=1.0", "learning", 3e6), curve=((0, 1e9), (60, 3e6)))
    better = replace(outcome("he_init", "learning", 0.1), curve=((0, 2.3), (60, 0.1)))
    exploded = replace(case, record=replace(case.record, steps=steps))
    assert [p.remedies for p in of(exploded, CONTROL, worse, better) if p.verified] == [("he_init",)]
    assert not advise_clip(exploded.record, exploded.onset, (CONTROL, worse, better)).needed


def test_nothing_is_verified_where_the_control_learned_too(case):
    """A run that happened to go well the second time proves nothing."""
    arms = tuple(outcome(remedy, "learning", 0.1) for remedy in ("", "clip_norm=1.0", "lower_lr=0.1"))
    found = of(case, *arms)
    assert found
    assert not any(p.verified for p in found)
    assert all("nothing can be shown" in p.why for p in found)
    advice = advise_clip(case.record, case.onset, arms)
    assert not advice.needed
    assert "did not break again" in advice.why


def test_what_stays_finite_without_learning_is_no_cure(case):
    found = of(case, CONTROL, outcome("clip_norm=1.0", "finite_not_learning", 2.3))
    assert not any(p.verified for p in found)
    assert ("clip_norm=1.0",) not in [p.remedies for p in found]


def test_the_metric_decides_where_one_is_given(case):
    """Also one where higher is better."""
    arms = (outcome("clip_norm=1.0", "learning", 0.1, 0.6), outcome("lower_lr=0.1", "learning", 0.11, 0.9))
    assert of(case, CONTROL, *arms, metric=Metric(r"max:acc=(\S+)"))[0].remedies == ("lower_lr=0.1",)
    assert of(case, CONTROL, *arms, metric=Metric(r"err=(\S+)"))[0].remedies == ("clip_norm=1.0",)


def test_a_metric_that_one_arm_alone_came_to_print_decides_nothing(case):
    """The others were cut short before it."""
    arms = (outcome("clip_norm=1.0", "learning", 0.1), outcome("lower_lr=0.1", "learning", 0.1))
    found = of(case, CONTROL, *arms, outcome("he_init", "learning", 0.1, 0.9), metric=Metric(r"err=(\S+)"))
    assert [p.remedies for p in found][:3] == [("clip_norm=1.0",), ("lower_lr=0.1",), ("he_init",)]


def test_a_cure_says_at_how_many_seeds_it_learns(case):
    """One that failed at one of them gives way to another."""
    control = replace(CONTROL, again=("nonfinite", "learning"))
    shaky = replace(outcome("clip_norm=1.0", "learning", 0.1), again=("nonfinite", "learning"))
    sound = replace(outcome("lower_lr=0.1", "learning", 0.1), again=("learning", "learning"))
    found = of(case, control, shaky, sound)
    assert [p.remedies for p in found][:2] == [("lower_lr=0.1",), ("clip_norm=1.0",)]
    assert [p.seeds for p in found][:2] == [Seeds(tried=3, learns=3, fails=2), Seeds(tried=3, learns=2, fails=2)]
    assert "learns at 3 of 3 seeds; unchanged the script fails at 2 of them" in found[0].why
    fixed = replace(sound, again=("fixed", "fixed"))
    (first, *_) = of(case, replace(CONTROL, again=("fixed", "fixed")), fixed)
    assert first.seeds is None
    assert "runs the same at every seed" in first.why


def test_a_pair_is_one_prescription_of_two(case):
    found = of(case, CONTROL, outcome("clip_norm=1.0+lower_lr=0.1", "learning", 0.1))
    assert found[0].remedies == ("clip_norm=1.0", "lower_lr=0.1")


def test_clipping_is_needed_where_it_cured_and_not_where_it_masks(case):
    record, found = case.record, case.onset
    assert advise_clip(record, found, (CONTROL, outcome("clip_norm=0.5", "learning", 0.1))).threshold == 0.5
    masked = (CONTROL, outcome("clip_norm=1.0", "finite_not_learning", 2.3))
    assert not advise_clip(record, found, masked).needed
    eased = (CONTROL, outcome("clip_norm=1.0", "learning", 2.0), outcome("lower_lr=0.1", "learning", 0.01))
    assert not advise_clip(record, found, eased).needed


def test_four_times_a_threshold_tells_whether_it_is_too_tight(case):
    record, found = case.record, case.onset
    tight = outcome("clip_norm=1.0", "learning", 0.5)
    advice = advise_clip(record, found, (CONTROL, tight, outcome("clip_norm=4", "learning", 0.1)))
    assert (advice.threshold, advice.looser) == (4.0, None)
    assert "at a quarter of it, 1, the run crawls" in advice.notes[0]
    advice = advise_clip(record, found, (CONTROL, tight, outcome("clip_norm=4", "learning", 0.51)))
    assert (advice.threshold, advice.looser) == (1.0, "alike")
    advice = advise_clip(record, found, (CONTROL, tight, outcome("clip_norm=4", "nonfinite", None)))
    assert (advice.threshold, advice.looser) == (1.0, "worse")
    assert advise_clip(record, found, (CONTROL, tight)).looser is None


def test_clipping_can_be_dropped_where_something_else_does_as_well(case):
    clip, other = outcome("clip_norm=1.0", "learning", 0.1), outcome("lower_lr=0.1", "learning", 0.102)
    both = advise_clip(case.record, case.onset, (CONTROL, clip, other))
    assert both.droppable
    assert "dropped where lower_lr=0.1 is put in" in both.why
    alone = advise_clip(case.record, case.onset, (CONTROL, clip))
    assert alone.droppable is False
    assert "without it it does not" in alone.why
    masked = outcome("clip_norm=1.0", "finite_not_learning", 2.0)
    assert not advise_clip(case.record, case.onset, (CONTROL, masked)).droppable
    assert advise_clip(case.record, case.onset, (CONTROL, masked, other)).droppable


def test_a_clip_of_the_scripts_own_that_never_acts_can_be_dropped():
    record = make_run("healthy", steps=200)
    own = replace(record, steps=tuple(replace(row, unclipped=row.total) for row in record.steps))
    assert advise_clip(own, onset(own)).droppable
    assert advise_clip(record, onset(record)).droppable is None


def test_a_healthy_run_is_told_that_it_needs_none():
    record = make_run("healthy")
    advice = advise_clip(record, onset(record))
    assert not advice.needed
    assert advice.threshold is not None


def test_a_crutch_is_called_one_where_something_mends_the_fault(case):
    """Leaving steps out may come first, for it is the least edit; the reader is told what would make it needless."""
    both = (outcome("skip_step", "learning", 0.100), outcome("eps_in_op", "learning", 0.100))
    skip, mend = of(case, CONTROL, *both)
    assert skip.remedies == ("skip_step",)
    assert "eps_in_op mends" in skip.why
    assert "mends" not in mend.why
    assert "mends" not in of(case, CONTROL, both[0])[0].why


def test_what_the_script_clipped_is_judged_where_the_run_went_well():
    """From the norms alone: no claim is made that takes a trial, and none where nothing was clipped."""
    record = make_run("healthy")
    plain = advise_clip(record, onset(record))
    assert (plain.fit, plain.notes) == (None, ())
    rows = tuple(replace(row, unclipped=10 * row.total) for row in record.steps)
    always = replace(record, steps=rows)
    advice = advise_clip(always, onset(always))
    assert advice.fit == "often"
    assert "only a run with four times as much can tell" in advice.notes[0]
