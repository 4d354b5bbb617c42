"""What the weighing of causes promises."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from gradbelt._types import Evidence, Onset, Origin, Outcome, Risk, RunRecord
from gradbelt.causes import CAUSES, Case, suspect
from gradbelt.remedies import parse
from gradbelt.trials.arms import ARMS

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


def test_a_loss_that_adds_up_is_known_by_what_it_adds_up_and_not_by_its_size():
    """Of a few rows of many numbers, too; unless a mean of it did not help."""
    summed = {s.cause: s.confidence for s in suspect(case(batch=8, summed=4608), faint=0.0)}
    mean = {s.cause: s.confidence for s in suspect(case(batch=8, summed=0), faint=0.0)}
    refuted = case((outcome("", "nonfinite"), outcome("loss_reduction", "nonfinite")), batch=8, summed=4608)
    assert summed["loss_scale_bug"] > 0.3 > 0.03 > mean["loss_scale_bug"]
    assert {s.cause: s.confidence for s in suspect(refuted, faint=0.0)}["loss_scale_bug"] < summed["loss_scale_bug"]


def test_an_arm_that_learns_worse_than_the_best_proves_nothing():
    arms = (outcome("lower_lr=0.1", "learning", 0.9), outcome("optimizer_defaults", "learning", 0.1))
    found = suspect(case(unusual={"betas": "(0.999, 0.9) (default (0.9, 0.999))"}, outcomes=arms))
    assert found[0].cause == "optimizer_state"


def test_an_arm_whose_time_was_up_while_it_lived_tells_neither_way():
    """One that had broken by then has failed."""

    def held(*arms):
        return {s.cause: s.confidence for s in suspect(case(arms), faint=0.0)}["learning_rate"]

    alive, broken = outcome("lower_lr=0.1", "finite_not_learning"), outcome("lower_lr=0.1", "nonfinite")
    assert held(replace(alive, late=True)) == held() > held(alive)
    assert held(replace(broken, late=True)) == held(broken) < held()


def test_where_the_script_learns_unchanged_no_arm_has_shown_anything():
    lived, arm = outcome("", "learning"), outcome("lower_lr=0.1", "learning")
    assert suspect(case((lived, arm)), faint=0.0) == suspect(case((lived,)), faint=0.0)
    assert suspect(case((arm,)), faint=0.0) != suspect(case(), faint=0.0)


def test_gradients_that_were_never_cleared_are_certain():
    assert suspect(case(stale=True))[0].cause == "accumulation_bug"


def risk(cause):
    return Risk(
        cause=cause, module="layers.0", value=1e7, limit=30.0, what="gradients grow by 1.33 a layer", follows=""
    )


@pytest.mark.parametrize("cause", ["depth", "init", "activation", "residual_scaling", "attention_logits", "recurrence"])
def test_what_the_first_step_foretold_speaks_for_its_cause(cause):
    """And it is among the evidence that a reader is shown."""
    known = {"depth": 40, "attention": True, "skips": 12, "recurrent": ("RNN",), "sequence": 60}
    before = {s.cause: s.confidence for s in suspect(case(risks=(), **known), faint=0.0)}
    after = {s.cause: s for s in suspect(case(risks=(risk(cause),), **known), faint=0.0)}
    assert after[cause].confidence > before[cause]
    assert any("1.33" in sentence for sentence in after[cause].evidence)


@pytest.mark.parametrize("cause", ["residual_scaling", "attention_logits", "sequence_length", "low_precision"])
def test_a_cause_whose_part_is_missing_is_ruled_out(cause):
    """No skip connection, no attention, no recurrence, no half precision."""
    assert cause not in {s.cause for s in suspect(case())}


def test_hardware_is_named_only_where_the_same_run_did_not_break_again():
    healthy = (outcome("", "learning"),)
    again = Case(
        record=case().record, onset=case().onset, evidence=Evidence(reproduced=False), outcomes=healthy
    )  # fmt: skip
    assert suspect(again)[0].cause == "hardware"
    assert "hardware" not in {s.cause for s in suspect(case(outcomes=healthy))}


def test_longer_sequences_at_the_onset_are_named():
    cured = outcome("", "nonfinite"), outcome("clip_norm=1.0", "learning"), outcome("gated_rnn", "learning")
    grown = suspect(case(recurrent=("RNN",), sequence=8, unrolled=120, outcomes=cured))
    same = suspect(case(recurrent=("RNN",), sequence=120, unrolled=120))
    assert grown[0].cause == "sequence_length"
    assert same[0].cause == "recurrence"


def test_a_growth_that_the_activation_explains_is_not_the_depths_as_well():
    """Values that stay flat, with a gain a layer backwards: the first layer's gradient shows that very gain."""
    found = suspect(case(depth=62, gain=1e7, weight_ratio=2.1, risks=(risk("activation"),)))
    assert found[0].cause == "activation"


@pytest.mark.parametrize(("op", "came_in"), [("linear", True), ("batch", False)])
def test_only_what_was_not_finite_is_said_to_have_come_in_with_the_data(op, came_in):
    """A batch that is blamed for a leap of the loss is made of plain numbers."""
    origin = Origin(stage="data", op=op, module=None, file="train.py", line=42, message=op)
    found = {s.cause: s for s in suspect(case(origin=origin), faint=0.0)}["data_outlier"]
    assert any("came in with the data" in sentence for sentence in found.evidence) == came_in


def test_every_cause_has_an_arm_that_a_trial_can_run():
    """But hardware, which nothing in the script can cure."""
    assert {cause.name for cause in CAUSES} - {"hardware"} <= set(ARMS)
    for arms in ARMS.values():
        for arm in arms:
            assert parse(arm)
