"""Each remedy on the model cures a script that fails for what it is for, and breaks none of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cases.conftest import CASES, labels

from gradbelt.blackbox import load_run
from gradbelt.supervise.launch import launch
from gradbelt.supervise.plan import Plan
from gradbelt.trials.judge import judge_trial

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
REMEDIES = (
    "lsuv", "norm_layer", "activation_swap", "skip_connection", "residual_scale", "gated_rnn", "qk_norm",
    "logit_scaling",
)  # fmt: skip
ENDS_BY_ITSELF = {"exits", "nan_at_once", "no_torch", "raises", "broken_syntax", "no_steps", "slow"}


def trial(script, remedy, folder, steps=None, **environment):
    """(record, outcome, what was said on stderr) of a script under a remedy."""
    remedies = (remedy,) if remedy else ()
    plan = Plan(script=str(script), folder=str(folder), seed=0, remedies=remedies, horizon=steps, quiet=True)
    launch(plan, OMP_NUM_THREADS="1", **environment).wait()
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


PATIENTS = [
    *(path for path in sorted(SCRIPTS.glob("*.py")) if path.stem not in ENDS_BY_ITSELF),
    *sorted((SCRIPTS / "zoo").glob("[eho]_*.py")),
    *(CASES / case["file"] for case in labels()),
]


@pytest.mark.parametrize("script", PATIENTS, ids=lambda path: path.stem)
def test_no_remedy_breaks_a_script_that_it_is_tried_on(script, tmp_path):
    """All of them at once for the first steps: it goes as far as it did, and what is ours does not fail."""
    os.chdir(tmp_path)
    bare, _, _ = trial(script, "", tmp_path / "bare", steps=6)
    for remedy in REMEDIES:
        record, _, said = trial(script, remedy, tmp_path / remedy, steps=6)
        assert "unwatched" not in said, (remedy, said)
        assert record.num_steps >= bare.num_steps, (remedy, said)
        assert record.meta.get("exit_code") == bare.meta.get("exit_code"), (remedy, said)
