"""How calibration counts: episodes, recall, lead, and what is no part of the corpus."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradbelt._types import Level
from gradbelt.lab.calibrate.corpus import Label
from gradbelt.lab.calibrate.judged import ALL, VERDICT, Judged, Word, episodes
from gradbelt.lab.calibrate.table import found, rows
from gradbelt.lab.calibrate.training import Learnt

HEALTHY = Label(
    name="mlp-0", script="mlp", seed=0, fault=None, shape=None, kinds=(), at=0, effect="none", before=2.3, after=0.1,
    healthy=True, steps=1000, sizes={},
)  # fmt: skip
SICK = {"shape": "ramp", "at": 100, "effect": "nonfinite", "healthy": False}
RAMP = replace(HEALTHY, name="mlp-0-RateRamp", fault="RateRamp", **SICK)


def run(label=HEALTHY, *words, broken=None, steps=1000):
    return Judged(label=label, steps=steps, broken=broken, said={ALL: tuple(words), VERDICT: ()})


def ours(*runs):
    return next(row for row in rows(runs) if row.name == ALL)


def test_words_close_together_are_one_episode_as_loud_as_its_loudest():
    words = [Word(10, Level.WARN), Word(40, Level.ALARM), Word(90, Level.WARN), Word(141, Level.WARN)]
    assert [(word.step, word.level) for word in episodes(words)] == [(10, Level.ALARM), (141, Level.WARN)]


def test_false_alarms_are_episodes_per_healthy_step_and_a_watch_is_none():
    row = ours(run(HEALTHY, Word(5, Level.WATCH), Word(100, Level.WARN), Word(120, Level.WARN)), run(steps=4000),
               run(HEALTHY, Word(1, Level.ALARM), Word(500, Level.ALARM)))  # fmt: skip
    assert (row.alarms, row.warnings, row.steps) == (2, 1, 6000)
    assert row.alarms_per_1e5 == pytest.approx(2e5 / 6000)
    assert row.warnings_per_1e4 == pytest.approx(1e4 / 6000)


def test_what_was_said_before_the_fault_finds_nothing_and_neither_does_what_never_stopped():
    assert not found(run(RAMP, Word(40, Level.ALARM)), ALL)
    assert not found(run(RAMP, *(Word(i, Level.ALARM) for i in range(200))), ALL)
    assert found(run(RAMP, Word(40, Level.ALARM), Word(101, Level.WARN)), ALL)
    assert not found(run(RAMP, Word(101, Level.WATCH)), ALL)


def test_what_happens_at_one_step_must_be_seen_soon():
    spike = replace(RAMP, shape="spike")
    assert found(run(spike, Word(120, Level.WARN)), ALL)
    assert not found(run(spike, Word(121, Level.WARN)), ALL)
    assert found(run(RAMP, Word(121, Level.WARN)), ALL)


def test_a_symptom_that_never_warns_is_found_by_its_name():
    dead = replace(RAMP, shape="static", kinds=("dead_units",))
    assert found(run(dead, Word(300, Level.WATCH, ("dead_units",))), ALL)
    assert not found(run(dead, Word(300, Level.WATCH, ("grad_wall",))), ALL)


def test_lead_counts_from_when_it_was_said_to_the_first_value_that_is_not_finite():
    early = run(RAMP, Word(130, Level.WARN), broken=150)
    late = run(RAMP, Word(150, Level.ALARM), broken=150)
    never = run(RAMP, Word(130, Level.WARN))
    row = ours(early, late, never)
    assert (row.leads, row.ramps, row.lead, row.in_time) == ((20,), 2, 20, 0.5)
    assert row.recall == 1.0


def test_a_training_that_did_not_learn_is_no_part_of_the_corpus_however_silent_the_detectors():
    lazy = replace(HEALTHY, healthy=False)
    row = ours(run(), run(lazy, Word(5, Level.ALARM)))
    assert (row.alarms, row.steps) == (0, 1000)


def test_a_fault_that_did_nothing_is_no_fault():
    idle = replace(RAMP, effect="none", healthy=True)
    assert ours(run(idle)).faults == 0
    assert ours(run(RAMP)).faults == 1


@pytest.mark.parametrize(
    ("learnt", "healthy"),
    [
        (Learnt(2.3, 0.4), True),
        (Learnt(2.3, 2.0), False),
        (Learnt(-20.0, -120.0), True),
        (Learnt(-20.0, -21.0), False),
        (Learnt(3.0, -2.0), True),
        (Learnt(2.3, float("nan")), False),
        (Learnt(2.3, float("inf")), False),
    ],
)
def test_healthy_is_by_what_was_learnt_whatever_the_sign_of_the_loss(learnt, healthy):
    assert learnt.healthy is healthy
