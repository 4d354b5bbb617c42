"""Each remedy on the model cures a script that fails for what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradbelt.blackbox import load_run
from gradbelt.supervise.launch import launch
from gradbelt.supervise.plan import Plan
from gradbelt.trials.judge import judge_trial

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def trial(script, remedy, folder, steps=None, **environment):
    """(record, outcome, what was said on stderr) of a script under a remedy."""
    remedies = (remedy,) if remedy else ()
    plan = Plan(script=str(script), folder=str(folder), seed=0, remedies=remedies, horizon=steps, quiet=True)
    launch(plan, {"OMP_NUM_THREADS": "1", **environment}).wait()
    record = load_run(folder)
    return record, judge_trial(record, remedy, seconds=0.0), (folder / "stderr.log").read_text()


CURES = {
    "init_too_large": ("lsuv", "norm_layer"),
    "deep_plain": ("skip_connection",),
    "residual_no_norm": ("residual_scale", "norm_layer"),
    "saturated": ("activation_swap",),
    "runs_away": ("activation_swap",),
    "rnn_long": ("gated_rnn",),
    "attention_sharp": ("qk_norm",),
    "logits_large": ("logit_scaling",),
}


@pytest.mark.parametrize("name", CURES)
def test_the_remedy_cures_what_it_is_for_and_the_control_fails(name, tmp_path):
    script = SCRIPTS / "remedies" / f"{name}.py"
    assert trial(script, "", tmp_path / "control")[1].outcome != "learning"
    for remedy in CURES[name]:
        assert trial(script, remedy, tmp_path / remedy)[1].outcome == "learning"


@pytest.mark.parametrize("way", ["HAND", "MODULE"])
def test_attention_is_cured_however_it_is_written(way, tmp_path):
    script = SCRIPTS / "remedies" / "attention_sharp.py"
    assert trial(script, "", tmp_path / "control", **{way: "1"})[1].outcome != "learning"
    assert trial(script, "qk_norm", tmp_path / "cured", **{way: "1"})[1].outcome == "learning"
