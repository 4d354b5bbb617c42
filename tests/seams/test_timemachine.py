"""The time machine: what goes on from a snapshot is the script, to the last bit, and nothing is left over."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.supervise.launch import stop, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.snapshots import _least
from gradbelt.supervise.timemachine import TimeMachine

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="snapshots need Linux"),
    pytest.mark.timeout(180),
]
SOON = 120.0


def plan_of(folder, *argv, script=SCRIPTS / "late.py", **more):
    return Plan(script=str(script), argv=argv, folder=str(folder / "again"), seed=3, quiet=True, **more)


def ran(machine, plan, *steps):
    assert machine.run(plan, steps, time.monotonic() + SOON)
    return load_run(Path(machine.plan.folder))


def woken(machine, step, folder, **change):
    """The record of what went on after `step`, at its end."""
    plan = replace(machine.plan, folder=str(folder), **change)
    child = machine.before(step + 1).wake(plan)
    assert wait_until(child, time.monotonic() + SOON)
    assert child.returncode == 0
    return load_run(folder)


def told(record):
    return [(row.step, dict(row.losses), row.total, row.norm.tobytes()) for row in record.steps]


def alive(folder):
    """Processes, zombies too, that have to do with a run in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environ:
            found.append(int(process.name))
    return found


def gone(folder, patience=20.0):
    end = time.monotonic() + patience
    while alive(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(folder)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert gone(tmp_path)


def test_what_goes_on_from_a_snapshot_is_the_script_to_the_last_bit(tmp_path):
    """Losses, norms and output: batches of three kinds of random numbers, dropout, Adam, a file read bit by bit."""
    with TimeMachine() as machine:
        first = ran(machine, plan_of(tmp_path, "--healthy"), 30)
        assert not machine.refused
        for name in ("once", "twice"):  # waking doesn't use it up
            again = woken(machine, 30, tmp_path / name)
            assert told(again) == told(first)[31:]
            printed = (tmp_path / name / "stdout.log").read_text()
            assert (tmp_path / "again" / "stdout.log").read_text().endswith(printed)
            assert printed.startswith("30 ")


def test_it_goes_on_under_another_plan(tmp_path):
    """A remedy put on in the middle acts from there on, and a horizon ends it."""
    with TimeMachine() as machine:
        first = ran(machine, plan_of(tmp_path, "--healthy"), 30)
        again = woken(machine, 30, tmp_path / "clipped", remedies=("clip_norm=0.001", "higher_eps=0.1"), horizon=40)
    assert [row.step for row in again.steps] == list(range(31, 40))
    assert again.steps[0].total == first.steps[31].total
    assert all(row.total_after < 0.0011 for row in again.steps)
    assert again.meta["remedies"] == ["clip_norm=0.001", "higher_eps=0.1"]
    assert "higher_eps: eps raised (1 time)" in [event.message for event in again.events]


def test_the_script_ends_once_however_often_it_was_woken(tmp_path):
    """Its exit functions run in the process that ran it all, and the file it writes holds what that one wrote."""
    with TimeMachine() as machine:
        ran(machine, plan_of(tmp_path, "--healthy"), 10)
        for i in range(3):
            woken(machine, 10, tmp_path / str(i))
    assert (tmp_path / "exits.txt").read_text() == "exit\n"
    assert (tmp_path / "log.txt").read_text().split() == [str(i) for i in range(60)]


def test_a_snapshot_of_a_loop_without_an_optimizer(tmp_path):
    with TimeMachine() as machine:
        first = ran(machine, plan_of(tmp_path, script=SCRIPTS / "by_hand.py"), 8)
        assert told(woken(machine, 8, tmp_path / "on", horizon=12)) == told(first)[9:12]


def test_what_was_woken_can_be_stopped(tmp_path):
    with TimeMachine() as machine:
        ran(machine, plan_of(tmp_path, script=SCRIPTS / "slow.py", horizon=5), 2)
        child = machine.before(3).wake(replace(machine.plan, folder=str(tmp_path / "on"), horizon=None))
        assert child.poll() is None
        stop(child)
        assert child.returncode == -signal.SIGTERM
        assert machine.before(3).wake(replace(machine.plan, folder=str(tmp_path / "on2"))) is not None


def test_a_script_that_raises_leaves_its_snapshots(tmp_path):
    with TimeMachine() as machine:
        first = ran(machine, plan_of(tmp_path, script=SCRIPTS / "raises.py"), 0)
        assert first.meta["exit_code"] == 1
        assert machine.before(1).step == 0


PARENT = """
import sys, time
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import TimeMachine
from dataclasses import replace
folder = sys.argv[1]
machine = TimeMachine()
plan = Plan(script=sys.argv[2], folder=folder, seed=0, quiet=True, horizon=6)
assert machine.run(plan, (2, 4), time.monotonic() + 120)
child = machine.before(5).wake(replace(machine.plan, folder=folder + "/on", horizon=None))
print(machine._child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["parent", "script"])
def test_nothing_outlives_a_parent_that_is_killed(tmp_path, victim):
    """kill -9 of the process that asked for it, or of the one the snapshots are copies of."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "run"), str(SCRIPTS / "slow.py")],
        stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    script = int(parent.stdout.readline())
    assert len(alive(tmp_path)) >= 4  # the script, two snapshots and what was woken
    os.kill(script if victim == "script" else parent.pid, signal.SIGKILL)
    if victim == "script":
        end = time.monotonic() + 20
        while set(alive(tmp_path)) - {script} and time.monotonic() < end:  # a zombie until its parent looks
            time.sleep(0.02)
        assert not set(alive(tmp_path)) - {script}
        parent.kill()
    parent.communicate(timeout=60)
    assert gone(tmp_path)


OBSTACLES = {
    "thread": ("import threading as t; t.Thread(target=t.Event().wait, daemon=True, name='mine').start()", "mine"),
    "worker": ("import subprocess; child = subprocess.Popen(['sleep', '600'])", "child processes"),
    "memory": ("import mmap; shared = mmap.mmap(-1, 4096)", "memory that processes share"),
    "connection": ("import socket; pair = socket.socketpair()", "connection open"),
    "threads of torch": ("import torch; torch.set_num_threads(2)", "2 threads"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OBSTACLES)
def test_where_a_copy_would_not_be_whole_there_is_none_and_the_reason_is_told(tmp_path, kind):
    line, reason = OBSTACLES[kind]
    script = tmp_path / "script.py"
    script.write_text(f"{line}\n{(SCRIPTS / 'healthy.py').read_text()}\nif 'child' in dir(): child.kill()\n")
    with TimeMachine() as machine:
        again = ran(machine, plan_of(tmp_path, script=script), 5)
        assert machine.before(6) is None
    assert reason in machine.refused[5]
    assert [event.data["step"] for event in again.events if event.kind == "no_snapshot"] == [5]
    assert again.num_steps > 6  # and the script runs on


def test_snapshots_are_few_and_grow_apart_with_their_age():
    kept = []
    for step in range(1000):
        kept.append(step)
        if len(kept) > 6:
            kept.remove(_least(kept, step))
    assert kept[0] == 0
    assert kept[-1] == 999
    gaps = [later - earlier for earlier, later in itertools.pairwise(kept)]
    assert gaps == sorted(gaps, reverse=True)
    assert 4 * gaps[1] > gaps[0]
