"""Runs that do not explode and do not learn either: what the record shows of why; nothing on those that learn."""

from __future__ import annotations

import pytest
from tests.seams.conftest import SCRIPTS


@pytest.mark.parametrize(
    ("script", "kind", "level", "where"),
    [
        (("vanishes.py",), "grad_vanishing", "warn", "18.weight"),
        (("turtle.py", "1e-6"), "clip_saturated", "watch", None),
        (("dying_relus.py",), "dead_units", "watch", "0.weight"),
        (("written_over.py",), "grad_wall", "watch", "bias"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_run_that_does_not_learn_is_told_why(watched, script, kind, level, where):
    """Once, and never as an alarm: it has not exploded."""
    done = watched(SCRIPTS / script[0], *script[1:])
    assert done.returncode == 0
    assert not done.verdict["exploded"]
    assert [(s["level"], s["where"]) for s in done.verdict["symptoms"] if s["kind"] == kind] == [(level, where)]


def test_clipping_at_every_step_of_a_run_that_learns_is_no_symptom(watched):
    assert watched(SCRIPTS / "turtle.py", "1e-2").verdict["symptoms"] == []
