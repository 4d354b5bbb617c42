"""What the weighing of causes promises."""

from __future__ import annotations

import inspect
from pathlib import Path

from gradbelt._types import Evidence, Onset, Outcome, RunRecord
from gradbelt.causes import CAUSES, Case, suspect

FIXED = {
    "depth", "init", "activation", "recurrence", "sequence_length", "learning_rate", "missing_norm",
    "residual_scaling", "attention_logits", "data_outlier", "unnormalised_data", "numeric_op", "low_precision",
    "optimizer_state", "accumulation_bug", "loss_scale_bug", "hardware",
}  # fmt: skip


def case(outcomes=(), **evidence):
    record = RunRecord(folder=Path("."), meta={}, steps=())
    onset = Onset(exploded=True, warning_step=None, bad_step=10, findings=())
    return Case(record=record, onset=onset, evidence=Evidence(reproduced=True, **evidence), outcomes=outcomes)


def outcome(remedy, what, loss=1.0):
    return Outcome(remedy=remedy, outcome=what, steps=10, loss=loss, metric=None, seconds=1.0)


def test_the_names_are_among_the_fixed_ones():
    assert {cause.name for cause in CAUSES} <= FIXED
    for cause in CAUSES:
        assert inspect.getdoc(type(cause))


def test_confidences_add_up_to_at_most_one_and_come_sorted():
    found = suspect(case(stale=True, input_rms=200.0, half=("float16",)))
    assert sum(s.confidence for s in found) <= 1.0 + 1e-9
    assert [s.confidence for s in found] == sorted((s.confidence for s in found), reverse=True)


def test_a_trial_outweighs_an_observation():
    """Large inputs speak for unnormalised data; that a smaller step alone cures the run speaks louder."""
    before = suspect(case(input_rms=10.0))
    after = suspect(case(input_rms=10.0, outcomes=(outcome("", "nonfinite"), outcome("lower_lr=0.1", "learning"))))
    assert before[0].cause == "unnormalised_data"
    rank = [s.cause for s in after].index
    assert rank("learning_rate") < rank("unnormalised_data")


def test_an_arm_that_learns_worse_than_the_best_proves_nothing():
    arms = (outcome("lower_lr=0.1", "learning", 0.9), outcome("optimizer_defaults", "learning", 0.1))
    found = suspect(case(unusual={"betas": "(0.999, 0.9) (default (0.9, 0.999))"}, outcomes=arms))
    assert found[0].cause == "optimizer_state"


def test_gradients_that_were_never_cleared_are_certain():
    assert suspect(case(stale=True))[0].cause == "accumulation_bug"
