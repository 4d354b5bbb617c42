"""Real scripts with labels: found or left alone. Prints a table."""

from __future__ import annotations

import pytest
from tests.cases.conftest import each, gradbelt

pytestmark = pytest.mark.slow
NEAR = 2  # steps between the first bad step found and the one on the label


@each(explodes=True)
def test_an_explosion_is_found_at_its_step(case, tmp_path):
    """Of the labelled kind, the first bad step within two of the label's."""
    done, verdict = gradbelt(case["file"], tmp_path / "run", "--no-trials")
    kinds = [symptom["kind"] for symptom in verdict["symptoms"]]
    origin = verdict["origin"] or {}
    print(
        f"\n{case['id']:26s} {case['symptom']:11s} @{case['first_bad_step']:<4d} found {(*kinds, '-')[0]:11s} "
        f"@{verdict['first_bad_step']} {origin.get('op', '-')} {origin.get('module') or ''} {origin.get('line') or ''}"
    )
    assert done.returncode == 10, done.stderr
    assert verdict["exploded"]
    assert case["symptom"] in kinds
    assert abs(verdict["first_bad_step"] - case["first_bad_step"]) <= NEAR
    if case.get("first_bad_line") is not None:
        assert origin["line"] == case["first_bad_line"]
        assert origin["module"] == case["first_bad_module"]


@each(explodes=False)
def test_a_healthy_run_raises_no_alarm(case, tmp_path):
    done, verdict = gradbelt(case["file"], tmp_path / "run")
    print(f"\n{case['id']:26s} healthy: {[(s['kind'], s['step']) for s in verdict['symptoms']]}")
    assert done.returncode == 0, done.stderr
    assert not verdict["exploded"]
    assert verdict["causes"] == verdict["prescriptions"] == verdict["trials"] == []
