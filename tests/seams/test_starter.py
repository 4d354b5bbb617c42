"""A script that is started many times runs as it would in a process of its own."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gradbelt.blackbox import load_run
from gradbelt.supervise.launch import last_words, launch
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.starter import Starter

SCRIPTS = Path(__file__).parents[1] / "scripts"
ONE = {"OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process is copied on Linux alone")


def plan_of(script, folder, **fields):
    return Plan(script=str(SCRIPTS / script), folder=str(folder), seed=3, quiet=True, **fields)


def losses(folder):
    return [dict(row.losses) for row in load_run(folder).steps]


@pytest.fixture
def starter(tmp_path):
    made = Starter(plan_of("healthy.py", tmp_path), ONE)
    yield made
    made.close()


def test_a_copy_sees_the_losses_of_a_process_of_its_own(starter, tmp_path):
    """Equal to the last bit, in one copy after the other, with what they were sent to do."""
    launch(plan_of("healthy.py", tmp_path / "own"), ONE).wait(120)
    for name in ("first", "second"):
        assert starter.start(plan_of("healthy.py", tmp_path / name)).wait(120) == 0
        assert losses(tmp_path / name) == losses(tmp_path / "own") != []
    starter.start(plan_of("healthy.py", tmp_path / "slow", remedies=("lower_lr=0.1",))).wait(120)
    assert losses(tmp_path / "slow") != losses(tmp_path / "own")


def test_a_copy_ends_with_the_exit_code_and_the_last_words_of_its_script(starter, tmp_path):
    plan = plan_of("raises.py", tmp_path / "raises")
    own = replace(plan, folder=str(tmp_path / "own"))
    assert starter.start(plan).wait(120) == launch(own, ONE).wait(120) != 0
    assert last_words(plan) == last_words(own) != ""


def test_a_copy_leaves_what_was_loaded_alone(starter, tmp_path):
    """Its garbage collector does: at the end of each copy it took a second."""
    (tmp_path / "counts.py").write_text("import gc, torch\nprint(gc.get_freeze_count(), len(gc.get_objects()))\n")
    starter.start(replace(plan_of("healthy.py", tmp_path / "run"), script=str(tmp_path / "counts.py"))).wait(120)
    frozen, looked_through = map(int, (tmp_path / "run" / "stdout.log").read_text().split())
    assert looked_through < frozen / 10


def test_none_outlives_it(tmp_path):
    starter = Starter(plan_of("slow.py", tmp_path), ONE)
    child = starter.start(plan_of("slow.py", tmp_path / "run"))
    starter.close()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{child.pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child.pid}")


def test_where_no_process_can_be_copied_each_gets_its_own(tmp_path):
    """torch was told to use two threads."""
    starter = Starter(plan_of("healthy.py", tmp_path), {"OMP_NUM_THREADS": "2"})
    try:
        assert starter.start(plan_of("healthy.py", tmp_path / "run")).wait(120) == 0
        assert losses(tmp_path / "run")
    finally:
        starter.close()
