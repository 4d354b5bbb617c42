"""Real scripts with labels that are healthy: left alone. Prints a table."""

from __future__ import annotations

import pytest
from tests.cases.conftest import each, gradbelt

pytestmark = pytest.mark.slow


@each(explodes=False)
def test_a_healthy_run_raises_no_alarm(case, tmp_path):
    done, verdict = gradbelt(case["file"], tmp_path / "run")
    print(f"\n{case['id']:26s} healthy: {[(s['kind'], s['step']) for s in verdict['symptoms']]}")
    assert done.returncode == 0, done.stderr
    assert not verdict["exploded"]
    assert verdict["causes"] == verdict["prescriptions"] == verdict["trials"] == []
