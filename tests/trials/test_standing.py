"""Trials stop when it is clear: what is still worth trying once a cure is there, and which run has lost."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt._types import Event, Evidence, Outcome, Suspicion
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.causes import Case
from gradbelt.examine.reproduce import reproduce
from gradbelt.supervise.launch import launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.prospect import DEAD, LOST, Prospect
from gradbelt.testing import make_run
from gradbelt.trials import standing
from gradbelt.trials.arms import first_arms
from gradbelt.trials.judge import judge_trial
from gradbelt.trials.run import Budget, try_remedies
from gradbelt.trials.standing import good, looser, par, pressing, worth

WAITING = ["he_init", "lower_lr=0.01", "lower_lr=0.001", "clip_norm=1.0", "truncated_bptt", "skip_step"]


def outcome(remedy, what="learning", loss=0.1, curve=()):
    return Outcome(remedy=remedy, outcome=what, steps=60, loss=loss, metric=None, seconds=1.0, curve=curve)


FAILED = outcome("", "nonfinite", None)


@pytest.fixture
def case(monkeypatch):
    """A case in which the causes have the confidences asked for: case(learning_rate=0.95)(outcomes)."""
    record = make_run("explodes")
    sick = Case(record=record, onset=onset(record), evidence=Evidence(reproduced=True))

    def suspected(**causes):
        found = [Suspicion(cause=cause, confidence=confidence) for cause, confidence in causes.items()]
        monkeypatch.setattr(standing, "suspect", lambda _case: tuple(sorted(found, key=lambda s: -s.confidence)))
        return lambda *outcomes: replace(sick, outcomes=outcomes)

    return suspected


def test_without_a_cure_everything_is_worth_trying(case):
    """Or as long as the control has not failed: then nothing is proven yet."""
    sure = case(learning_rate=0.95)
    assert worth(sure(FAILED, outcome("lower_lr=0.1", "nonfinite", None)), WAITING) == WAITING
    assert worth(sure(outcome("lower_lr=0.1")), WAITING) == WAITING
    assert worth(sure(outcome(""), outcome("lower_lr=0.1")), WAITING) == WAITING


def test_with_a_cure_only_arms_of_the_cause_and_less_invasive_ones_are_left(case):
    """clip_norm and skip_step could take its place; he_init and truncated_bptt are for other causes."""
    left = worth(case(learning_rate=0.95)(FAILED, outcome("lower_lr=0.1")), WAITING)
    assert left == ["lower_lr=0.01", "lower_lr=0.001", "clip_norm=1.0", "skip_step"]


def test_a_cure_that_changes_least_is_the_end_where_the_cause_is_sure(case):
    assert worth(case(accumulation_bug=1.0)(FAILED, outcome("zero_grad")), WAITING) == []


def test_where_two_kinds_of_cure_agree_no_more_invasive_one_is_tried(case):
    found = FAILED, outcome("clip_norm=0.1", loss=0.100), outcome("orthogonal_init", loss=0.101)
    waiting = ["truncated_bptt", "gated_rnn", "clip_norm=1.0"]
    assert worth(case(recurrence=0.95)(*found), waiting) == ["truncated_bptt", "clip_norm=1.0"]
    poorer = FAILED, outcome("clip_norm=0.1", loss=0.1), outcome("orthogonal_init", loss=0.2)
    assert worth(case(recurrence=0.95)(*poorer), waiting) == waiting


def test_arms_that_tell_two_causes_apart_are_tried_however_invasive(case):
    found = FAILED, outcome("clip_norm=1.0", loss=0.1), outcome("truncated_bptt", loss=0.1)
    assert worth(case(recurrence=0.6, init=0.3)(*found), ["he_init", "lsuv", "xavier_init"]) == ["he_init", "lsuv"]
    assert worth(case(recurrence=0.95, init=0.04)(*found), ["he_init", "lsuv", "xavier_init"]) == []


def test_a_step_is_set_by_which_to_have_learnt_where_others_learn_early(case):
    """Not where one that learns needs long, and not while none does."""
    early = tuple((step, 1.0 if step < 8 else 0.5) for step in range(60))
    late = tuple((step, 1.0 if step < 40 else 0.5) for step in range(60))
    of = case(init=1.0)
    assert par(of(FAILED, outcome("he_init", curve=early)), 60) == 30
    assert par(of(FAILED, outcome("he_init", curve=early), outcome("lsuv", curve=late)), 60) is None
    assert par(of(FAILED), 60) is None


def test_what_takes_the_remedy_of_a_likely_cause_further_comes_first(case):
    """A still lower learning rate, where the learning rate may be it."""
    more = ["clip_value=0.5", "lower_lr=0.001", "clip_norm=1.0+lower_lr=0.1", "warmup=20"]
    assert pressing(case(recurrence=0.8, learning_rate=0.2)(FAILED), more) == ["lower_lr=0.001"]
    assert pressing(case(recurrence=0.95, learning_rate=0.05)(FAILED), more) == []


def test_a_clip_that_acts_at_most_steps_is_tried_once_more_four_times_as_loose(case):
    """For it may be too tight; not one that acts now and then, nor one that is no clip alone."""
    often = replace(outcome("clip_norm=0.5"), clip_rate=0.9)
    of = case(recurrence=1.0)
    assert looser(of(FAILED, often)) == "clip_norm=2"
    assert looser(of(FAILED, replace(often, clip_rate=0.1))) is None
    assert looser(of(FAILED, replace(often, remedy="clip_norm=0.5+skip_step"))) is None
    assert looser(of(often)) is None
    assert looser(of(FAILED, often, outcome("zero_grad", loss=0.01))) is None


def test_of_two_that_do_alike_the_one_that_does_less_comes_first(case):
    """skip_spike leaves out what skip_step does, and more; luck in the last digits does not put it before that. Where
    neither holds all that the other does, the better loss decides."""
    spiked, stepped = outcome("skip_spike=10", loss=0.0999), outcome("skip_step", loss=0.1)
    for found in ((spiked, stepped), (stepped, replace(spiked, loss=0.1))):
        assert [cure.remedy for cure in good(case(data_outlier=1.0)(FAILED, *found))] == ["skip_step", "skip_spike=10"]
    tighter = outcome("clip_norm=0.5", loss=0.0999), outcome("clip_norm=1.0", loss=0.1)
    assert good(case(recurrence=1.0)(FAILED, *tighter))[0].remedy == "clip_norm=0.5"
    far = replace(spiked, loss=0.05), stepped
    assert [cure.remedy for cure in good(case(data_outlier=1.0)(FAILED, *far))] == ["skip_spike=10"]


def lost_at(losses, **known):
    prospect = Prospect(**known)
    return next((step for step, loss in enumerate(losses) if prospect.lost(step, {"a": loss}, 1.0)), None)


def test_a_run_far_out_or_not_finite_for_long_is_lost():
    assert lost_at([1.0] * 10 + [math.nan] * 100) == 10 + DEAD - 1
    assert lost_at([1.0] * 10 + [1e7] * 100) == 10 + DEAD - 1
    assert lost_at([1.0] * 10 + ([1e7] * (DEAD - 1) + [1.0]) * 5) is None
    assert lost_at([1.0] * 10 + [100.0] * 200) is None  # high, and it may come down


def test_a_run_that_has_learnt_nothing_by_the_step_set_is_lost_there():
    assert lost_at([1.0] * 100, par=50) == 50
    assert lost_at([1.0] * 45 + [0.5] * 55, par=50) is None
    assert lost_at([1.0] * 100) is None


def test_what_was_given_up_for_lost_has_not_learnt():
    """Also downwards: a loss without a lower bound falls, and the control that does so is no proof of anything."""
    record = make_run("healthy")
    lost = Event(call=0, step=record.num_steps, kind=LOST, message="far out", data={})
    assert judge_trial(record, "", seconds=1.0).outcome == "learning"
    assert judge_trial(replace(record, events=(lost,)), "", seconds=1.0).outcome == "finite_not_learning"


def test_an_arm_that_does_not_learn_ends_at_the_step_set(tmp_path):
    """A hundred-thousandth of the learning rate learns nothing, and its record says why it ended."""
    ended = {}
    for remedy in ("lower_lr=0.00001", "clip_norm=1000"):
        plan = Plan(script=str(SCRIPTS / "healthy.py"), folder=str(tmp_path / remedy), seed=0, quiet=True, par=40)
        assert wait_until(launch(replace(plan, remedies=(remedy,))), time.monotonic() + 120)
        record = load_run(tmp_path / remedy)
        ended[remedy] = record.num_steps, any(event.kind == LOST for event in record.events)
    assert ended["lower_lr=0.00001"] == (41, True)
    assert ended["clip_norm=1000"][0] > 41
    assert not ended["clip_norm=1000"][1]


@pytest.mark.timeout(300)
def test_trials_of_a_script_end_when_it_is_clear_what_cures(tmp_path):
    """Forty times the learning rate: a tenth of it learns. Arms for other causes don't run, the dead end at once."""
    plan = Plan(script=str(SCRIPTS / "diverges.py"), folder=str(tmp_path / "run"), seed=0, quiet=True, horizon=40)
    launch(plan).wait()
    record = load_run(tmp_path / "run")
    found = onset(record)
    evidence = reproduce(record, found, replace(plan, folder=str(tmp_path / "again")), deadline=time.monotonic() + 60)
    sick = Case(record=record, onset=found, evidence=evidence)
    trials = replace(plan, folder=str(tmp_path / "trials"))
    outcomes = try_remedies(sick, trials, budget=Budget(seconds=120, jobs=1), watched=5.0)
    ran = [each.remedy for each in outcomes]
    assert "lower_lr=0.1" in ran
    assert len(ran) <= 7 < len(first_arms(sick)) + 4
    assert not {"he_init", "normalise_input", "optimizer_defaults", "warmup=16", "clip_value=0.5"} & set(ran)
    assert all(each.steps < 40 for each in outcomes if each.outcome == "nonfinite")
    assert all(each.ended is not None for each in outcomes)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_cure_is_run_to_its_end_where_trials_are_cut_short(tmp_path):
    """The budget asks for short runs; the record of the first cure goes to the script's last line all the same."""
    script = (SCRIPTS / "diverges.py").read_text().replace("range(80)", "range(200)")
    (tmp_path / "train.py").write_text(script)
    plan = Plan(script=str(tmp_path / "train.py"), folder=str(tmp_path / "run"), seed=0, quiet=True)
    launch(plan).wait()
    record = load_run(tmp_path / "run")
    sick = Case(record=record, onset=onset(record), evidence=Evidence(reproduced=True))
    trials = replace(plan, folder=str(tmp_path / "trials"))
    outcomes = try_remedies(sick, trials, budget=Budget(seconds=150, jobs=1), watched=30.0)
    steps = {each.remedy: each.steps for each in outcomes if each.outcome == "learning"}
    assert steps.pop("lower_lr=0.1") == 200
    assert steps
    assert all(taken < 200 for taken in steps.values())
    assert "final" in (tmp_path / "trials" / "lower_lr=0.1" / "stdout.log").read_text()


def test_the_control_is_not_cut_short_unless_it_takes_most_of_the_budget(case, tmp_path, monkeypatch):
    """Half-way it may seem to have come back."""
    horizons = {}

    class Nowhere:
        returncode = 0

        def start(self, plan):
            horizons[plan.remedies] = plan.horizon
            return self

        def poll(self):
            return 0

        def close(self):
            pass

    monkeypatch.setattr("gradbelt.trials.run.executor", lambda *_: Nowhere())
    plan = Plan(script="train.py", folder=str(tmp_path), seed=0)
    sick = case(learning_rate=1.0)()
    for watched, whole in ((12.0, True), (30.0, False)):
        horizons.clear()
        try_remedies(sick, plan, budget=Budget(seconds=40.0, jobs=1), watched=watched)
        assert (horizons[()] is None) == whole
        assert horizons["lower_lr=0.1",] is not None
