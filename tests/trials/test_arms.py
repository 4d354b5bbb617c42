"""Which remedies are tried on whom."""

from __future__ import annotations

from dataclasses import replace

from gradbelt._types import Evidence, Origin, Outcome
from gradbelt.belt.judge import onset
from gradbelt.causes import Case
from gradbelt.testing import make_run
from gradbelt.trials.arms import first_arms, more_arms


def sick_of(op, stage="forward", **evidence):
    record = make_run("all_nan")
    origin = Origin(stage=stage, op=op, module=None, file="train.py", line=42, message=op)
    return Case(record=record, onset=onset(record), evidence=Evidence(reproduced=True, origin=origin, **evidence))


def test_a_pole_gets_an_eps_and_an_empty_softmax_a_mask():
    """A division can be either: by a number near zero, or of nothing by nothing."""
    tried = {op: {"eps_in_op", "mask_fix"} & set(first_arms(sick_of(op))) for op in ("log", "softmax", "div")}
    assert tried == {"log": {"eps_in_op"}, "softmax": {"mask_fix"}, "div": {"eps_in_op", "mask_fix"}}


def test_holes_are_filled_only_where_holes_came_in():
    assert "impute_data" in first_arms(sick_of("linear", stage="data"))
    assert "impute_data" not in first_arms(sick_of("log"))


def test_a_pole_that_is_gone_without_a_cure_had_something_drive_numbers_into_it():
    failed = Outcome(remedy="eps_in_op", outcome="finite_not_learning", steps=60, loss=1.0, metric=None, seconds=1.0)
    assert "eps_in_op+normalise_input" in more_arms(sick_of("log"), (failed,))


def test_where_nothing_learns_all_that_is_usual_against_the_cause_is_tried():
    """What would else be prescribed unproven, with time left to prove it."""

    def more(what):
        arms = ("", "truncated_bptt", "clip_norm=1.0", "clip_norm=0.1", "lower_lr=0.1")
        ended = (Outcome(remedy=arm, outcome=what, steps=9, loss=1.0, metric=None, seconds=1.0) for arm in arms)
        return more_arms(sick_of("batch", stage="data", recurrent=("RNN",), sequence=8, unrolled=80), tuple(ended))

    assert "gated_rnn" in more("nonfinite")
    assert "gated_rnn" not in more("learning")


def test_an_update_that_breaks_in_float16_gets_an_eps_that_float16_holds():
    tried = {
        (stage, half): "higher_eps=1e-4" in first_arms(sick_of("addcdiv", stage=stage, half=(half,)))
        for stage in ("update", "forward") for half in ("float16", "bfloat16")
    }  # fmt: skip
    assert [at for at, is_tried in tried.items() if is_tried] == [("update", "float16")]


def test_gradients_that_no_longer_add_up_may_still_be_too_large():
    failed = Outcome(remedy="zero_grad", outcome="nonfinite", steps=60, loss=None, metric=None, seconds=1.0)
    pair = "zero_grad+lower_lr=0.1"
    assert pair in more_arms(sick_of("step", stage="update"), (failed,))
    assert pair not in more_arms(sick_of("step", stage="update"), (replace(failed, idle=True),))


def test_gates_are_tried_where_a_plain_recurrent_layer_runs():
    tried = {kind: "gated_rnn" in first_arms(walked(kind)) for kind in ("RNN", "RNNCell", "LSTM")}
    assert tried == {"RNN": True, "RNNCell": True, "LSTM": False}


def walked(kind):
    return sick_of("mm", recurrent=(kind,), sequence=80)


def test_a_way_past_the_layers_is_tried_on_deep_nets_only():
    tried = {depth: "he_init+skip_connection" in first_arms(sick_of("mm", depth=depth)) for depth in (3, 100)}
    assert tried == {3: False, 100: True}


def test_saturating_activations_are_swapped_where_there_are_any():
    assert "activation_swap" in first_arms(sick_of("mm", saturating=True))
    assert "activation_swap" not in first_arms(sick_of("mm"))
