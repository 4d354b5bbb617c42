"""The parent's side: starts the child, passes signals on, waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol

from gradbelt.supervise.plan import Plan

ENTRY = "gradbelt.cli.patient"
LOG = "stderr.log"
GRACE = 5.0  # seconds between asking a child to stop and making it


class Child(Protocol):
    """A process that runs the script: a `subprocess.Popen`, or one that goes on from a snapshot."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def launch(
    plan: Plan, environment: Mapping[str, str] = MappingProxyType({}), *, pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Starts the script as planned. Its stdin, stdout and stderr are this process's own; a quiet one gets none of
    them."""
    # -P: the folder we are in must not shadow what the child imports before the script sets its own path
    command = [sys.executable, "-P", "-m", ENTRY]
    everything = {**plan.environment(), **environment}
    if not plan.quiet:
        return subprocess.Popen(command, env=everything)
    # a session of its own, so that Ctrl-C reaches the parent alone, which then ends its children in order
    nothing = subprocess.DEVNULL
    with log_of(plan) as log:
        return subprocess.Popen(
            command,
            env=everything,
            stdin=nothing,
            stdout=nothing,
            stderr=log,
            start_new_session=True,
            pass_fds=pass_fds,
        )


def last_words(plan: Plan) -> str:
    """The last line that a quiet child wrote to stderr: the exception that ended it, say."""
    try:
        lines = (Path(plan.folder) / LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def log_of(plan: Plan) -> IO[bytes]:
    """Where a quiet child's stderr goes: a file. A pipe that nobody empties would stop a script with a progress bar."""
    folder = Path(plan.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOG).open("wb")
    except OSError:
        return open(os.devnull, "wb")


def wait(child: subprocess.Popen[bytes]) -> int:
    """Waits for the child. Signals sent to us alone are passed on; Ctrl-C in a terminal reaches it by itself.

    Answers its exit code as a shell would: 128 + n where signal n ended it.
    """

    def pass_on(number: int, _frame: object) -> None:
        child.send_signal(number)

    passed = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2] if sys.platform != "win32" else []
    before = {number: signal.signal(number, pass_on) for number in passed}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def stop(child: Child) -> None:
    """Ends a child: politely, then not."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until(child: Child, deadline: float) -> bool:
    """Waits for a quiet child until `deadline` (time.monotonic); False if it had to be stopped."""
    try:
        while child.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True
    finally:
        stop(child)  # also when Ctrl-C ends the wait
