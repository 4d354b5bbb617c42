"""Real scripts with labels: what cures them from outside cures them as an edit. Prints a table.

Of what `gradbelt run` itself prescribes there, test_cures.py applies the patches.
"""

from __future__ import annotations

import math

import pytest
from tests.cases.conftest import final_loss, gradbelt, labels, patched

from gradbelt.blackbox import load_run
from gradbelt.errors import UsageError
from gradbelt.remedies import parse
from gradbelt.remedies.edits import patches

pytestmark = pytest.mark.whole


def cures():
    """Every remedy that a label says cures, with its case; one skipped test where there are none."""
    found = [(case, name) for case in labels() for name in case.get("cures") or () if known(name)]
    skipped = [pytest.param(None, "", marks=pytest.mark.skip("no labelled cases here"))]
    given = [pytest.param(case, name, id=f"{case['id']}-{name}") for case, name in found]
    return pytest.mark.parametrize(("case", "name"), given or skipped)


def known(name):
    """Whether it can be tried from outside."""
    try:
        return bool(parse(name))
    except UsageError:
        return False


TOLD = []  # for the table: case, remedy, whether it cures from outside, whether its patch does


@cures()
def test_the_patch_of_a_cure_cures_as_the_remedy_does(case, name, tmp_path):
    """Where the remedy, from outside, reaches the loss of a healthy run, so does a copy that its diff was put into.

    Where no diff is made, nothing is claimed; the share is held below.
    """
    done, _ = gradbelt(case["file"], tmp_path / "run", "--watch-only", "--with", name)
    under, healthy = final_loss(done.stdout), case["healthy_loss"]
    diff = patches(load_run(tmp_path / "run"))(())
    said, loss = patched(case["file"], diff, tmp_path / "patched") if diff else ("no diff", math.nan)
    TOLD.append((under <= healthy, loss <= healthy))
    print(
        f"\n{case['id']:24s} {name:28s} healthy {healthy:<8g} remedy {under:<9.4g} patch {loss:<9.4g} {said}",
        flush=True,
    )
    assert not said.startswith("does not apply"), said
    if diff and under <= healthy:
        assert loss <= healthy


def test_most_cures_hold_as_a_patch():
    """At least 80 % of those that ran before this."""
    cured = [patch for remedy, patch in TOLD if remedy]
    if not cured:
        pytest.skip("no labelled cases here")
    print(f"\n{sum(cured)} of {len(cured)} cures hold as a patch")
    assert sum(cured) >= 0.8 * len(cured)
