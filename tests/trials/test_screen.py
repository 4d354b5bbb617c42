"""Where a script breaks late, a look at its last steps says which arms to prove first."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt._types import Onset
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.remedies import REMEDIES
from gradbelt.supervise.launch import launch
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import TimeMachine
from gradbelt.trials.screen import LEAD, is_midway, lead, screened

ARMS = ["he_init", "lower_lr=0.1", "eps_in_op", "skip_step", "clip_norm=1.0"]


def broke(bad, healthy):
    return Onset(exploded=True, warning_step=None, bad_step=bad, findings=(), healthy_step=healthy)


def test_a_script_that_breaks_early_is_not_looked_at():
    """Its trials take no longer than a look."""
    assert lead(broke(0, None)) is None
    assert lead(broke(40, 39)) is None
    assert lead(broke(2000, 1999)) == 1998 - LEAD


def test_what_is_laid_out_before_the_first_step_is_not_put_on_in_the_middle():
    first = {"he_init", "xavier_init", "orthogonal_init", "lsuv", "norm_layer", "activation_swap", "skip_connection"}
    first |= {"residual_scale", "gated_rnn", "qk_norm", "logit_scaling", "warmup", "normalise_input"}
    assert not {name for name in REMEDIES if is_midway(name)} & first
    assert {"clip_norm", "lower_lr", "skip_step"} <= {name for name in REMEDIES if is_midway(name)}


@pytest.mark.skipif(sys.platform != "linux", reason="snapshots need Linux")
@pytest.mark.timeout(180)
def test_arms_that_live_past_the_onset_come_first_and_none_is_dropped(tmp_path, monkeypatch):
    """One root of zero at step 600: a smaller step does not help, an eps does, and so does leaving the step out."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "late.py"
    source = (SCRIPTS / "late.py").read_text()
    script.write_text(source.replace("range(60)", "range(700)").replace("== 40", "== 600"))
    plan = Plan(script=str(script), folder=str(tmp_path / "run"), seed=3, quiet=True)
    launch(plan).wait()
    found = onset(load_run(tmp_path / "run"))
    assert found.bad_step == 600
    step = lead(found)
    with TimeMachine() as machine:
        assert machine.run(replace(plan, folder=str(tmp_path / "again"), horizon=602), (step,), time.monotonic() + 90)
        trials = replace(plan, folder=str(tmp_path / "trials"))
        soon = time.monotonic() + 90
        order = screened(ARMS, found, machine, trials, jobs=2, deadline=soon)
        assert order == ["eps_in_op", "skip_step", "he_init", "lower_lr=0.1", "clip_norm=1.0"]
        looked = {path.name for path in (tmp_path / "trials" / "screen").iterdir()}
        assert "he_init" not in looked
        assert load_run(tmp_path / "trials" / "screen" / "eps_in_op").steps[0].step == step + 1
        late = replace(found, bad_step=590, healthy_step=589)
        assert screened(ARMS, late, machine, trials, jobs=2, deadline=soon) == ARMS  # no snapshot: nothing is changed
    assert screened(ARMS, found, TimeMachine(), trials, jobs=2, deadline=soon) == ARMS
