from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gradbelt._types import Event
from gradbelt.blackbox import Writer, load_run


def contiguous(folder: Path) -> int:
    """The number of steps on file, after checking that they are calls 0, 1, 2, ... and each is whole."""
    steps = load_run(folder).steps
    assert [step.call for step in steps] == list(range(len(steps)))
    for step in steps:
        assert step.losses == {"train.py:61": step.call}
        assert (step.norm == step.call).all() and len(step.norm) == len(step.names) == 100
    return len(steps)


@pytest.mark.parametrize("pause", [0.0003, 0.03])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_costs_at_most_the_last_second(tmp_path: Path, loop: list[str], pause: float, seed: int) -> None:
    """After kill -9 at any moment the record opens at once and lacks only what happened just before.

    0.1 s is allowed here, on the loop's own clock.
    """
    calls, folder = tmp_path / "calls.txt", tmp_path / "run"
    with calls.open("wb") as stdout:
        training = subprocess.Popen([*loop, str(folder), "--pause", str(pause), "--say-calls"], stdout=stdout)
        while calls.read_bytes().count(b"\n") < 10:
            time.sleep(0.005)
        time.sleep(random.Random(seed).uniform(0.2, 0.8))
        training.send_signal(signal.SIGKILL)
        training.wait()
    through = [float(line.split()[1]) for line in calls.read_text().splitlines(keepends=True) if line.endswith("\n")]
    read = contiguous(folder)
    assert len(through) >= 10
    lost = through[read:]
    assert not lost or through[-1] - lost[0] < 0.1


def test_a_kill_during_the_first_moments_leaves_something_readable(tmp_path: Path, loop: list[str]) -> None:
    """Even a run killed while its black box is being made reads back as a run, or there is no file yet."""
    found = 0
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        training = subprocess.Popen([*loop, str(folder), "--pause", "0.001"])
        while not (folder / "blackbox.sqlite").exists():
            pass
        time.sleep(attempt * 0.0005)
        training.kill()
        training.wait()
        found += contiguous(folder) >= 0
    assert found == 5


def test_readers_never_disturb_the_writer_nor_see_half_a_step(tmp_path: Path, loop: list[str]) -> None:
    """Two other processes may read as often as they like: each view is whole, and only ever grows."""
    reading = """
import sys
from gradbelt.blackbox import load_run
seen = [-1]
finished = False
while not finished:
    run = load_run(sys.argv[1])
    finished = run.finished
    assert [step.call for step in run.steps] == list(range(len(run.steps)))
    assert all(step.losses == {"train.py:61": step.call} for step in run.steps)
    assert len(run.steps) >= seen[-1]
    seen.append(len(run.steps))
print(len(set(seen)))
"""
    training = subprocess.Popen(
        [*loop, str(tmp_path / "run"), "--steps", "1500", "--pause", "0.0005"], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "blackbox.sqlite").exists():
        time.sleep(0.005)
    readers = [
        subprocess.Popen([sys.executable, "-c", reading, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    views = [int(reader.communicate(timeout=60)[0]) for reader in readers]
    assert training.communicate(timeout=60)[1] == ""
    assert [reader.returncode for reader in readers] == [0, 0]
    assert min(views) > 3
    assert contiguous(tmp_path / "run") == 1500


def test_the_log_beside_the_file_stays_small(tmp_path: Path, row) -> None:
    """However long the run, the WAL is checked in again and again: it stays under 10 MB, and is gone after close()."""
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    wal = tmp_path / "blackbox.sqlite-wal"
    largest = 0
    for call in range(300):
        writer.step(row(call))
        writer.note(blob="x" * 100_000)  # commits each time, 25 pages or more
        largest = max(largest, wal.stat().st_size)
    assert 1_000_000 < largest < 10_000_000
    writer.close()
    assert not wal.exists()


def test_a_script_that_just_ends_leaves_every_step(tmp_path: Path, python) -> None:
    """Nobody has to call close(): what was written is on file when the interpreter exits, by an exception or not."""
    ended = python(
        "import threading\n"
        "from gradbelt.blackbox import Writer\n"
        "writer = Writer(args[0], {}, warn=print)\n"
        "keep = threading.Thread(target=lambda _: threading.Event().wait(), args=(writer,), daemon=True)\n"
        "keep.start()  # so that the writer is never collected\n"
        "for call in range(100): writer.step(row(call))\n"
        "raise RuntimeError('the script broke')",
        tmp_path / "run",
    )
    assert ended.returncode == 1 and "the script broke" in ended.stderr and ended.stdout == ""
    assert contiguous(tmp_path / "run") == 100
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["blackbox.sqlite"]


FORKING = """
import gc, os, sqlite3, sys, threading
from gradbelt.blackbox import Writer, load_run

writer = Writer(args[0], {}, warn=print)
for call in range(50):
    writer.step(row(call))
held, leave = threading.Event(), threading.Event()

def hold():
    with writer._lock:
        held.set()
        leave.wait()

if args[1] == "locked":
    threading.Thread(target=hold).start()
    held.wait()
pid = os.fork()
if pid == 0:
    import signal
    signal.alarm(20)
    assert writer.off
    writer.step(row(999))
    writer.note(child=True)
    writer.close()
    del writer
    gc.collect()
    if os.path.isdir("/proc/self/fd"):  # closing what it inherited is the one thing the child must not do
        inherited = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert os.path.realpath(args[0] + "/blackbox.sqlite-wal") in inherited, inherited
    own = Writer(args[0] + "-child", {}, warn=print)
    own.step(row(0))
    sys.exit(7)  # the whole way out: atexit, finalizers, module teardown
leave.set()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert not writer.off
assert os.path.getsize(args[0] + "/blackbox.sqlite-wal") > 0
for call in range(50, 100):
    writer.step(row(call))
writer.close()
assert sqlite3.connect(args[0] + "/blackbox.sqlite").execute("PRAGMA integrity_check").fetchall() == [("ok",)]
assert "child" not in load_run(args[0]).meta
assert len(load_run(args[0] + "-child").steps) == 1
"""


@pytest.mark.parametrize("lock", ["free", "locked"])
def test_a_forked_child_leaves_the_parents_record_alone(tmp_path: Path, python, lock: str) -> None:
    """A forked child, such as a data loader's worker, writes nothing, spoils nothing and exits as it likes.

    A black box of its own it may have.
    """
    forked = python(FORKING, tmp_path / "run", lock)
    assert (forked.returncode, forked.stdout, forked.stderr) == (0, "", "")
    assert contiguous(tmp_path / "run") == 100


def test_steps_may_come_from_any_thread(tmp_path: Path, row) -> None:
    """Four threads that write at the same time lose nothing."""
    writer = Writer(tmp_path, {}, warn=pytest.fail)

    def write(first: int) -> None:
        for call in range(first, 400, 4):
            writer.step(row(call))

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert contiguous(tmp_path) == 400


def test_a_signal_handler_may_report_its_signal(tmp_path: Path, python) -> None:
    """An event written by a signal handler goes through, even when the signal arrives in the middle of a step."""
    done = python(
        """
import signal
from gradbelt._types import Event
from gradbelt.blackbox import Writer, load_run

writer = Writer(args[0], {}, warn=print)
count = 0

def handle(*_):
    global count
    count += 1
    writer.event(Event(call=0, step=0, kind="signal", message="alarm"))

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
for call in range(4000):
    writer.step(row(call))
signal.setitimer(signal.ITIMER_REAL, 0)
writer.close()
run = load_run(args[0])
assert len(run.events) == count > 10, (len(run.events), count)
""",
        tmp_path / "run",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert contiguous(tmp_path / "run") == 4000


def test_an_interrupt_passes_through_and_costs_nothing(tmp_path: Path, row: Callable) -> None:
    """Ctrl-C in the middle of a step ends what the user wants ended; the record goes on if the script does."""

    class Losses(dict[str, float]):
        def items(self):
            raise KeyboardInterrupt

    writer = Writer(tmp_path, {}, warn=pytest.fail)
    writer.step(row(0))
    with pytest.raises(KeyboardInterrupt):
        writer.tail(Losses())
    writer.step(row(1))
    writer.event(Event(call=1, step=1, kind="signal", message="interrupted"))
    assert contiguous(tmp_path) == 2
