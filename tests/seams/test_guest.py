"""gradbelt is a guest in the user's run: the script behaves as under plain python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

from gradbelt.blackbox import load_run

SAME = (
    "healthy.py",
    "diverges.py",
    "by_hand.py",
    "gan.py",
    "lbfgs.py",
    "scaler.py",
    "sparse.py",
    "exits.py",
    "no_steps.py",
    "workers.py",
    "autograd_grad.py",
    "functional.py",
)
MORE = {"lbfgs.py", "sparse.py", "scaler.py", "exits.py", "workers.py", "autograd_grad.py", "functional.py", "gan.py"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in MORE else n for n in SAME])
def test_output_and_exit_code_are_those_of_the_bare_script(name, bare, watched):
    """Down to the last digit printed, so the numbers are the same too."""
    one, other = bare(SCRIPTS / name), watched(SCRIPTS / name)
    assert other.stdout == one.stdout
    assert other.returncode == one.returncode
    assert (other.folder / "stdout.log").read_text() == one.stdout


def test_surroundings_are_those_of_plain_python(bare, watched):
    """__main__, __file__, argv, the working directory, sys.path, stdin, binary output: nothing shows that we are
    there."""
    command = (SCRIPTS / "surroundings.py", "--epochs", "3", "--with", "x")
    one, other = bare(*command, stdin="hello\n"), watched(*command, stdin="hello\n")
    assert one.returncode == 0
    assert other.stdout == one.stdout


def test_a_module_runs_as_with_python_m(bare, watched):
    """Relative imports work, arguments after the module are its own."""
    place = {"PYTHONPATH": str(SCRIPTS)}
    one = bare("-m", "pkg.train", "--lr", "1", environment=place)
    other = watched("-m", "pkg.train", "--lr", "1", environment=place)
    assert one.stdout == other.stdout != ""
    assert load_run(other.folder).num_steps == 5


def test_an_exception_is_shown_as_python_shows_it(bare, watched):
    """The traceback holds the script's frames and none of ours; the exit code is python's."""
    one, other = bare(SCRIPTS / "raises.py"), watched(SCRIPTS / "raises.py")
    trace = one.stderr[one.stderr.index("Traceback") :]
    assert trace in other.stderr
    assert other.returncode == one.returncode == 1


def test_a_loss_that_stopped_the_script_is_found_though_no_step_used_it(watched):
    done = watched(SCRIPTS / "raises.py")
    assert done.verdict["exploded"]
    assert done.verdict["first_bad_step"] == 5
    assert done.verdict["symptoms"][0]["kind"] == "nan_loss"


def test_a_script_without_torch_runs_and_is_told_apart(bare, watched):
    one, other = bare(SCRIPTS / "no_torch.py", "you"), watched(SCRIPTS / "no_torch.py", "you")
    assert other.stdout == one.stdout
    assert other.returncode == 0
    assert "no training step was seen" in other.stderr


def test_one_line_while_all_is_well(watched):
    done = watched(SCRIPTS / "healthy.py")
    assert done.stderr.count("\n") == 1
    assert "healthy" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_script_and_leaves_a_record(number, tmp_path):
    """Ctrl-C and a cluster's SIGTERM: the script cleans up as it would, and every step until then is on record."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(tmp_path / "run"), str(SCRIPTS / "slow.py")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    assert child.stdout.readline() == "started\n"
    time.sleep(1.0)
    if number == signal.SIGINT:
        os.killpg(child.pid, number)  # as a terminal does: to everyone in the foreground
    else:
        child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err
    assert ("cleaned up" in out) == (number == signal.SIGINT)  # python itself dies of SIGTERM at once
    assert load_run(tmp_path / "run").num_steps > 20


def test_kill_9_leaves_all_but_the_last_second(tmp_path):
    """Whoever kills the whole tree, the steps are there and can be told."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(tmp_path / "run"), str(SCRIPTS / "slow.py")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    assert child.stdout.readline() == "started\n"
    time.sleep(1.5)
    before = load_run(tmp_path / "run").num_steps
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert load_run(tmp_path / "run").num_steps >= before > 20
    told = subprocess.run(
        [sys.executable, "-m", "gradbelt", "report", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert told.returncode == 0
    assert told.stdout


def test_two_may_read_while_the_run_goes_on(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(tmp_path / "run"), str(SCRIPTS / "slow.py")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "started\n"
        time.sleep(1.0)
        folder = str(tmp_path / "run")
        code = f"from gradbelt import load_run\nfor _ in range(10): n = load_run({folder!r}).num_steps\nprint(n)"
        readers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert all(int(reader.communicate(timeout=60)[0]) > 20 for reader in readers)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
