"""No remedy troubles a script that it is put on: it goes as far as without, and nothing of ours fails.

The whole matrix takes an hour and a half; the slow tier deals the remedies out over the scripts, so that each remedy
and each script has its turn. `pytest -m whole tests/remedies` plays all of it.
"""

from __future__ import annotations

import itertools

import pytest
from tests.cases.conftest import CASES, labels
from tests.seams.conftest import SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.remedies import REMEDIES
from gradbelt.supervise.launch import launch
from gradbelt.supervise.plan import Plan

STEPS = 6
ENDS_BY_ITSELF = {"exits", "nan_at_once", "no_torch", "raises", "broken_syntax", "no_steps", "slow"}
PATIENTS = [
    *(path for path in sorted(SCRIPTS.glob("*.py")) if path.stem not in ENDS_BY_ITSELF),
    *sorted((SCRIPTS / "zoo").glob("[eho]_*.py")),
    *(CASES / case["file"] for case in labels()),
]
MATRIX = list(itertools.product(PATIENTS, sorted(REMEDIES)))
DEALT = list(zip(PATIENTS, itertools.cycle(sorted(REMEDIES)), strict=False))


def spelt(pair):
    script, remedy = pair
    return f"{remedy}-{script.stem}"


@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=pytest.mark.slow if pair in DEALT else pytest.mark.whole) for pair in MATRIX],
    ids=map(spelt, MATRIX),
)
def test_a_script_goes_as_far_under_a_remedy_as_without(pair, tmp_path, monkeypatch):
    script, remedy = pair
    monkeypatch.chdir(tmp_path)
    bare, treated = play(script, (), tmp_path / "bare"), play(script, (remedy,), tmp_path / "treated")
    assert [event.message for event in treated.events if event.kind in ("remedy_failed", "belt_failed")] == []
    assert treated.num_steps >= bare.num_steps
    assert treated.meta.get("exit_code") == bare.meta.get("exit_code")


def test_each_remedy_and_each_script_has_its_turn():
    assert {remedy for _, remedy in DEALT} == set(REMEDIES)
    assert {script for script, _ in DEALT} == set(PATIENTS)


def play(script, remedies, folder):
    plan = Plan(script=str(script), folder=str(folder), seed=0, remedies=remedies, horizon=STEPS, quiet=True)
    launch(plan).wait()
    return load_run(folder)
