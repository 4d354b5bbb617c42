"""A trial whose remedy has nothing to act on costs a few steps, not a run."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.supervise.launch import launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.testing import make_run
from gradbelt.trials.run import settled


def steps_of(script, folder, *remedies, until=3):
    plan = Plan(script=str(script), folder=str(folder), seed=0, remedies=remedies, quiet=True, settled=until)
    child = launch(plan)
    assert wait_until(child, time.monotonic() + 120)
    return load_run(folder).num_steps


@pytest.mark.parametrize(
    ("remedy", "ends"),
    [
        ("zero_grad", True),
        pytest.param("optimizer_defaults+precision", True, marks=pytest.mark.slow),
        pytest.param("residual_scale", True, marks=pytest.mark.slow),
        ("clip_norm=1.0", False),  # says nothing of what it does
        ("zero_grad+lower_lr=0.1", False),  # one part acts
        pytest.param("he_init", False, marks=pytest.mark.slow),
        pytest.param("skip_batch", False, marks=pytest.mark.slow),  # the batch may come yet
    ],
)
def test_a_remedy_that_would_have_acted_by_now_ends_its_trial(remedy, ends, tmp_path):
    """`zero_grad` in a script that clears by itself is over after the steps that show it; others go on."""
    steps = steps_of(SCRIPTS / "healthy.py", tmp_path / "trial", remedy)
    assert (steps == 4) == ends, steps


@pytest.mark.slow
def test_one_that_acts_goes_on(tmp_path):
    forgot = (SCRIPTS / "healthy.py").read_text().replace("optimizer.zero_grad()", "pass")
    (tmp_path / "forgot.py").write_text(forgot)
    assert steps_of(tmp_path / "forgot.py", tmp_path / "trial", "zero_grad") > 4
    script = SCRIPTS / "remedies" / "rnn_long.py"
    assert steps_of(script, tmp_path / "gated", "gated_rnn") > 4


def test_a_run_has_settled_when_each_part_of_a_step_was_seen_twice():
    """The critic steps from the start on, the generator from step 5, and its loss at step 9."""
    record = make_run("healthy")
    rows = [replace(row, optimizer=row.step % 5 == 4, losses={"a": 1.0}) for row in record.steps[:30]]
    assert settled(replace(record, steps=tuple(rows))) == 9
    rows[20] = replace(rows[20], losses={"b": 1.0})
    rows[25] = replace(rows[25], losses={"b": 1.0})
    assert settled(replace(record, steps=tuple(rows))) == 25
    assert settled(replace(record, steps=())) is None
