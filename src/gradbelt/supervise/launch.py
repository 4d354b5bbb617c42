"""The parent's side: starts the child, passes signals on, waits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from gradbelt.supervise.plan import Plan

ENTRY = "gradbelt.cli.patient"
GRACE = 5.0  # seconds between asking a child to stop and making it


def launch(plan: Plan, **environment: str) -> subprocess.Popen[bytes]:
    """Starts the script as planned. Its stdin, stdout and stderr are this process's own; a quiet one gets none of
    them."""
    quiet: dict[str, Any] = {}
    if plan.quiet:
        # a session of its own, so that Ctrl-C reaches the parent alone, which then ends its children in order
        quiet = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
        }
    # -P: the folder we are in must not shadow what the child imports before the script sets its own path
    command = [sys.executable, "-P", "-m", ENTRY]
    return subprocess.Popen(command, env={**plan.environment(), **environment}, **quiet)


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


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a child: politely, then not."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until(child: subprocess.Popen[bytes], deadline: float, tick: Callable[[], None] = lambda: None) -> bool:
    """Waits for a quiet child until `deadline` (time.monotonic); False if it had to be stopped."""
    while child.poll() is None:
        if time.monotonic() > deadline:
            stop(child)
            return False
        tick()
        time.sleep(0.05)
    return True
