"""Where the lines of a script lie in several files: each edit goes where its lines are, or nowhere."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from gradbelt._types import Event
from gradbelt.remedies.edits import by_hand, patches
from gradbelt.supervise.deeds import ACTED
from gradbelt.testing import make_run

TRAIN = """\
import torch
from lib.loop import fit
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
fit(model, optimizer)
"""
LOOP = """\
import torch
def fit(model, optimizer):
    for step in range(9):
        loss = model(torch.randn(8, 4)).square().sum()
        loss.backward()
        optimizer.step()
"""


@pytest.fixture
def record(tmp_path):
    """train.py makes an optimizer, lib/loop.py steps it."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "lib" / "loop.py").write_text(LOOP)
    run = make_run("healthy")
    rows = tuple(replace(row, losses={"lib/loop.py:5": 1.0}) for row in run.steps)
    meta = {"script": "train.py", "cwd": str(tmp_path), "steps_at": ["lib/loop.py:6"], "made_at": ["train.py:4"]}
    return replace(run, folder=tmp_path / "run", meta=meta, steps=rows, events=())


def after(folder, diff):
    subprocess.run(["patch", "-p1"], input=diff, text=True, cwd=folder, check=True, capture_output=True)
    return (folder / "train.py").read_text(), (folder / "lib" / "loop.py").read_text()


def test_an_edit_goes_into_the_file_that_holds_the_line(record, tmp_path):
    diff = patches(record)(("clip_norm=1.0",))
    train, loop = after(tmp_path, diff)
    assert train == TRAIN
    groups = 'for group in optimizer.param_groups for p in group["params"]'
    assert f"clip_grad_norm_([p {groups}], 1.0)\n        optimizer.step()" in loop


def test_a_pair_whose_lines_lie_apart_is_one_diff_of_both_files(record, tmp_path):
    train, loop = after(tmp_path, patches(record)(("skip_step", "lower_lr=0.1")))
    assert "lr=0.05)" in train
    assert "        if all(" in loop


def test_a_learning_rate_that_another_file_sets_is_not_edited(record, tmp_path):
    """What is written in one file would be written over by the other."""
    assert patches(record)(("lower_lr=0.1",)) is not None
    moved = replace(record, meta={**record.meta, "made_at": ["lib/loop.py:2"]})
    (tmp_path / "lib" / "loop.py").write_text(
        LOOP.replace("def fit(model, optimizer):", "def fit(m, o, s=torch.optim.SGD([torch.ones(1)], lr=1)):")
    )
    assert patches(moved)(("lower_lr=0.1",)) is not None
    (tmp_path / "train.py").write_text(TRAIN + "optimizer.param_groups[0]['lr'] = 1\n")
    assert patches(moved)(("lower_lr=0.1",)) is None


def test_a_file_out_of_reach_gives_no_diff(record):
    elsewhere = replace(record, meta={**record.meta, "steps_at": ["trainer.py:88"]})
    assert patches(elsewhere)(("clip_norm=1.0",)) is None


def test_what_cannot_be_a_diff_is_said_with_its_lines(record):
    """Where the remedy acted, where it would act, and both of a pair."""
    did = {"remedy": "eps_in_op", "done": [["log", "train.py:9", 1], ["log", "lib/loop.py:7", 40]]}
    record = replace(record, events=(Event(call=0, step=0, kind=ACTED, message="", data=did),))
    said = by_hand(record)
    assert said(("eps_in_op=0.001",)).startswith("to change by hand, at lib/loop.py:7, train.py:9: x.clamp_min(0.001)")
    assert "at lib/loop.py:6: " in said(("clip_norm=2.0",))
    pair = said(("skip_connection", "higher_eps=0.001"))
    assert "at train.py:4: x = x + block(x)" in pair
    assert "; and at train.py:4: eps=0.001" in pair
