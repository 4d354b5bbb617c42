"""Buffers and optimizer states that broke while the loss went on as if nothing were."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.seams.conftest import SCRIPTS

from gradbelt._types import Level
from gradbelt.belt.judge import SPOILT, onset
from gradbelt.blackbox import load_run
from gradbelt.supervise import spoilt
from gradbelt.supervise.launch import launch
from gradbelt.supervise.plan import Plan


def watched(script, folder):
    launch(Plan(script=str(script), folder=str(folder), seed=0)).wait(120)
    return load_run(folder)


def test_a_buffer_that_broke_is_told_with_its_name(tmp_path):
    """Once, as a warning; the mask that was -inf from the start is not."""
    record = watched(SCRIPTS / "spoilt_buffer.py", tmp_path / "run")
    assert [event.data["where"] for event in record.events if event.kind == SPOILT] == ["layers.1.running_var"]
    found = [f for f in onset(record).findings if f.where == "layers.1.running_var"]
    assert [(f.kind, f.level) for f in found] == [("inf_weight", Level.WARN)]


def test_a_second_moment_that_overflowed_is_told(tmp_path):
    """A gradient of 1e22 squares to inf in float32; the weight it belongs to never moves again."""
    script = tmp_path / "moment.py"
    script.write_text(
        "import torch\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = torch.optim.Adam([weight], lr=1e-3)\n"
        "for step in range(30):\n"
        "    optimizer.zero_grad()\n"
        "    (weight.sum() * (1e22 if step == 20 else 1.0)).backward()\n"
        "    optimizer.step()\n"
    )
    record = watched(script, tmp_path / "run")
    assert [event.data["where"] for event in record.events if event.kind == SPOILT] == ["exp_avg_sq of a parameter"]


def test_modules_are_searched_for_seldom_and_late_ones_found_all_the_same(monkeypatch):
    """A search goes through all that the script holds; a module made in the middle is met before the run is twice as
    long."""
    searches, roots = [], spoilt.roots
    monkeypatch.setattr(spoilt, "roots", lambda: searches.append(None) or roots())
    told = []
    patient = SimpleNamespace(
        at_step=[], at_end=[], seams=SimpleNamespace(optimizers=()), event=lambda *_, where, number: told.append(where)
    )
    looks = spoilt.Spoilt(patient)
    for call in range(10_000):
        if call == 3000:
            late = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        if call == 7000:
            late[1].running_var[0] = torch.inf
        looks._stepped(SimpleNamespace(call=call, bad={}))
    assert len(searches) == 8
    assert [where.rpartition("1.")[2] for where in told] == ["running_var"]


@pytest.mark.parametrize(
    "script", ["gan.py", *(pytest.param(name, marks=pytest.mark.slow) for name in ("healthy.py", "lbfgs.py"))]
)
def test_a_sound_run_has_none(script, tmp_path):
    record = watched(SCRIPTS / script, tmp_path / "run")
    assert record.steps
    assert not [event for event in record.events if event.kind in (SPOILT, "belt_failed")]
