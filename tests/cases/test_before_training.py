"""`gradbelt check` on the labelled cases: what lies in the network, its data or its scale is found before training.

Held to it are the cases whose fault is there from the start: a root cause that lies in the structure, or an update that
breaks within the first three steps. What builds up later (a moment, a bad row, an attention that sharpens) can't be
seen at the first steps, and nothing is claimed for it; what is said of it is in the table all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.cases.conftest import CASES, ENVIRONMENT, each, labels

pytestmark = pytest.mark.slow
STRUCTURE = {"init", "depth", "activation", "recurrence", "residual_scaling", "missing_norm"}
EARLY = 2  # the first bad step of a case that breaks at once

# numbers that break at one operation are for `gradbelt run`: nothing grows before
SUDDEN = {"numeric_op"}


def checked(script):
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "check", "--json", "-", str(CASES / script)],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode in (0, 10), done.stderr
    return json.loads(done.stdout)["risks"]


def is_there_from_the_start(case):
    causes = case["root_cause"]
    return bool(STRUCTURE & set(causes)) or (case["first_bad_step"] <= EARLY and causes[0] not in SUDDEN)


@each()
def test_it_is_found_before_training_or_there_is_nothing_to_find(case):
    risks = checked(case["file"])
    said = "; ".join(f"{risk['cause']}: {risk['what']}" for risk in risks) or "-"
    print(f"\n{case['id']:26s} {','.join(case['root_cause']) or 'healthy':40s} {said}")
    if not case["explodes"]:
        assert risks == []
    elif is_there_from_the_start(case):
        assert {risk["cause"] for risk in risks} & set(case["root_cause"])


def test_there_are_cases_of_either_kind():
    found = labels()
    if not found:
        pytest.skip("no labelled cases here")
    exploding = [case for case in found if case["explodes"]]
    assert 0 < sum(map(is_there_from_the_start, exploding)) < len(exploding)
