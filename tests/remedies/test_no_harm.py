"""No remedy troubles a script that it is put on: it goes as far as without, and nothing of ours fails.

The slow tier deals the remedies out over the scripts, so that each remedy and each script has its turn.
`pytest -m "slow or whole" tests/remedies/test_no_harm.py` plays every remedy on every script.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os

import pytest
from tests.cases.conftest import CASES, labels
from tests.seams.conftest import SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.remedies import REMEDIES
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.starter import Starter

STEPS = 6
ENDS_BY_ITSELF = {"exits", "nan_at_once", "no_torch", "raises", "broken_syntax", "no_steps", "slow"}
PATIENTS = [
    *(path for path in sorted(SCRIPTS.glob("*.py")) if path.stem not in ENDS_BY_ITSELF),
    *sorted((SCRIPTS / "zoo").glob("[eho]_*.py")),
    *(CASES / case["file"] for case in labels()),
]
MATRIX = list(itertools.product(PATIENTS, sorted(REMEDIES)))
DEALT = set(zip(PATIENTS, itertools.cycle(sorted(REMEDIES)), strict=False))


def spelt(pair):
    script, remedy = pair
    return f"{remedy}-{script.stem}"


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """(script, remedies) -> its record; each is played once, in a copy of a process that has torch loaded."""
    home = tmp_path_factory.mktemp("plays")
    (home / "sitecustomize.py").write_text("import sklearn.datasets")  # many scripts do, and it takes a second

    def planned(script, remedies):
        folder = home / script.stem / "+".join(remedies)
        return Plan(script=str(script), folder=str(folder), seed=0, remedies=remedies, horizon=STEPS, quiet=True)

    @functools.cache
    def played(script, *remedies):
        starter.start(planned(script, remedies)).wait()
        return load_run(home / script.stem / "+".join(remedies))

    with contextlib.chdir(home):  # for what a script writes
        path = os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])])
        starter = Starter(planned(PATIENTS[0], ()), {"OMP_NUM_THREADS": "1", "PYTHONPATH": path})
        yield played
        starter.close()


@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=pytest.mark.slow if pair in DEALT else pytest.mark.whole) for pair in MATRIX],
    ids=map(spelt, MATRIX),
)
def test_a_script_goes_as_far_under_a_remedy_as_without(pair, play):
    script, remedy = pair
    bare, treated = play(script), play(script, remedy)
    assert [event.message for event in treated.events if event.kind in ("remedy_failed", "belt_failed")] == []
    assert treated.num_steps >= bare.num_steps
    assert treated.meta.get("exit_code") == bare.meta.get("exit_code")


def test_each_remedy_and_each_script_has_its_turn():
    assert {remedy for _, remedy in DEALT} == set(REMEDIES)
    assert {script for script, _ in DEALT} == set(PATIENTS)
