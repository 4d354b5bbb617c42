"""Runs that do not explode and do not learn either: what the record shows of why; nothing on those that learn."""

from __future__ import annotations

import pytest
from tests.seams.conftest import SCRIPTS


@pytest.mark.parametrize(
    ("script", "kind", "level", "where"),
    [
        (("vanishes.py",), "grad_vanishing", "warn", "18.weight"),
        pytest.param(("turtle.py", "1e-6"), "clip_saturated", "watch", None, marks=pytest.mark.slow),
        pytest.param(("dying_relus.py",), "dead_units", "warn", "3", marks=pytest.mark.slow),
        pytest.param(("saturates.py",), "saturated", "warn", "1", marks=pytest.mark.slow),
        (("attention_sharpens.py", "0.1"), "logit_growth", "warn", "blocks.0"),
        (("activations_grow.py",), "divergence", "warn", "1.0.up"),
        (("written_over.py",), "grad_wall", "watch", "bias"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_run_that_does_not_learn_is_told_why(watched, script, kind, level, where):
    """Once, and never as an alarm: it has not exploded."""
    done = watched(SCRIPTS / script[0], *script[1:], options=("--watch-only", "--activations", "inf"))
    assert done.returncode == 0
    assert not done.verdict["exploded"]
    assert [(s["level"], s["where"]) for s in done.verdict["symptoms"] if s["kind"] == kind] == [(level, where)]


def test_units_whose_activations_are_not_looked_at_are_known_by_their_gradients(watched):
    done = watched(SCRIPTS / "dying_relus.py", options=("--watch-only", "--activations", "0"))
    assert [(s["kind"], s["level"], s["where"]) for s in done.verdict["symptoms"]] == [
        ("dead_units", "watch", "0.weight")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [("healthy.py",), ("gan.py",), ("attention_sharpens.py", "0.003")], ids=lambda s: s[0]
)
def test_a_run_that_learns_may_have_sharp_attention_and_saturated_answers(watched, script):
    done = watched(SCRIPTS / script[0], *script[1:], options=("--watch-only", "--activations", "inf"))
    assert done.verdict["symptoms"] == []


@pytest.mark.slow
def test_the_same_numbers_are_printed_to_the_bit_whether_activations_are_looked_at_or_not(bare, watched):
    """The guest's promise: a watched run is the run."""
    script = (SCRIPTS / "attention_sharpens.py", "0.003")
    plain = bare(*script).stdout
    for share in ("0", "inf"):
        assert watched(*script, options=("--watch-only", "--activations", share)).stdout == plain


@pytest.mark.slow
def test_clipping_by_value_is_told_of_once_though_the_run_learns(watched):
    (found,) = watched(SCRIPTS / "clipped_by_value.py").verdict["symptoms"]
    assert (found["kind"], found["shape"], found["level"], found["where"]) == ("grad_wall", "pile", "watch", "2.weight")


def test_clipping_at_every_step_of_a_run_that_learns_is_no_symptom(watched):
    assert watched(SCRIPTS / "turtle.py", "1e-2").verdict["symptoms"] == []
