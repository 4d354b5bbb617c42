"""A cure is shown at other seeds: those the script gives itself are shifted from outside."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt._types import Evidence
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.causes import Case
from gradbelt.supervise.launch import launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.trials.run import Budget, try_remedies

DRAWS = """\
import random
import numpy
import torch
from numpy.random import default_rng

random.seed(BASE)
numpy.random.seed(seed=BASE)
torch.manual_seed(BASE)
print(random.random(), numpy.random.rand(), default_rng(BASE).random(), torch.rand(1).item())
"""


def printed(folder, text, **fields):
    folder.mkdir()
    (folder / "draws.py").write_text(text)
    plan = Plan(script=str(folder / "draws.py"), folder=str(folder / "run"), seed=5, quiet=True, **fields)
    assert wait_until(launch(plan), time.monotonic() + 120)
    return (folder / "run" / "stdout.log").read_text()


def test_a_shift_is_what_another_seed_in_the_script_would_be(tmp_path):
    """For all three sources of random numbers."""
    shifted = printed(tmp_path / "a", DRAWS.replace("BASE", "7"), shift=2)
    assert shifted == printed(tmp_path / "b", DRAWS.replace("BASE", "9"))
    assert shifted != printed(tmp_path / "c", DRAWS.replace("BASE", "7"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("drawn", [True, False])
def test_the_first_cure_and_the_control_are_tried_at_two_more_seeds(drawn, tmp_path):
    """Where nothing is drawn no seed makes a difference, and that is said."""
    script = (SCRIPTS / "diverges.py").read_text()
    if not drawn:
        script = script.replace("x = torch.randn(256, 8)", "x = torch.sin(torch.arange(2048.0)).view(256, 8)")
        script = script.replace("torch.randn(8, 1)", "torch.ones(8, 1)")
        script = script.replace("torch.randint(0, 256, (32,))", "[0, 9, 40]")
        filled = "[torch.nn.init.constant_(p, 0.1) for p in model.parameters()]"
        script = script.replace("optimizer =", f"{filled}\noptimizer =")
    (tmp_path / "train.py").write_text(script)
    plan = Plan(script=str(tmp_path / "train.py"), folder=str(tmp_path / "run"), seed=0, quiet=True, horizon=30)
    assert wait_until(launch(plan), time.monotonic() + 120)
    record = load_run(tmp_path / "run")
    sick = Case(record=record, onset=onset(record), evidence=Evidence(reproduced=True))
    trials = replace(plan, folder=str(tmp_path / "trials"))
    outcomes = try_remedies(sick, trials, budget=Budget(seconds=240, jobs=1), watched=5.0)
    again = {each.remedy: each.again for each in outcomes if each.again}
    assert len(again) == 2
    control, cure = again.pop(""), next(iter(again.values()))
    if drawn:
        assert "learning" not in control
        assert cure == ("learning", "learning")
        first, second = (load_run(tmp_path / "trials" / "seeds" / n / "control").steps[0].losses for n in "12")
        assert first != second
    else:
        assert control == cure == ("fixed", "fixed")
