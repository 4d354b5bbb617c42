"""The parent's side of the time machine: a script that has run once, and can go on from any of its snapshots."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from gradbelt.supervise.launch import GRACE, Child, launch, stop
from gradbelt.supervise.plan import Plan

LONGEST = 1 << 20  # bytes of one message

SINGLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that make libraries start no threads of their own: threads don't survive a fork."""


class Woken:
    """A process that goes on from a snapshot; to be waited for and stopped as a `subprocess.Popen` is."""

    def __init__(self, snapshot: Snapshot, pid: int) -> None:
        self._snapshot, self.pid = snapshot, pid

    @property
    def returncode(self) -> int | None:
        return self._snapshot.ended(self.pid)

    def poll(self) -> int | None:
        self._snapshot.listen(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.returncode) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self._snapshot.listen(left)
        return code

    def terminate(self) -> None:
        self._snapshot.signal(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        self._snapshot.signal(self.pid, signal.SIGKILL)


class Snapshot:
    """A paused copy of the script after `step`."""

    def __init__(self, step: int, door: socket.socket) -> None:
        self.step, self._door = step, door
        self._codes: dict[int, int] = {}
        self._woken: list[int] = []
        self.gone = False

    def wake(self, plan: Plan) -> Child | None:
        """A process that goes on from here as `plan` says; None where the copy is gone."""
        known = len(self._woken)
        try:
            self._door.send(json.dumps(asdict(plan)).encode())
        except OSError:
            self.gone = True
        while len(self._woken) == known and not self.gone:
            self.listen(None)
        return Woken(self, self._woken[-1]) if len(self._woken) > known else None

    def ended(self, pid: int) -> int | None:
        """The exit code of a process woken here; None while it runs."""
        return self._codes.get(pid, -signal.SIGKILL if self.gone else None)

    def signal(self, pid: int, number: int) -> None:
        """Sent by the copy, which alone knows that the number is still that process's."""
        try:
            self._door.send(json.dumps({"to": pid, "signal": number}).encode())
        except OSError:
            self.gone = True

    def listen(self, timeout: float | None) -> None:
        """Takes in what the copy has said; waits up to `timeout` seconds for it to say something."""
        while not self.gone and select.select([self._door], [], [], timeout)[0]:
            try:
                said = json.loads(self._door.recv(LONGEST) or "null")
            except OSError:
                said = None
            if said is None:
                self.gone = True
            elif "woken" in said:
                self._woken.append(said["woken"])
            else:
                self._codes[said["ended"]] = said["code"]
            timeout = 0.0

    def close(self) -> None:
        """The copy ends, and all that were woken from it."""
        self.gone = True
        self._door.close()


class TimeMachine:
    """A script that is run once more and leaves snapshots behind; leaving it as a context ends every process of it.

    >>> with TimeMachine() as machine:  # machine.run(plan, (41,), deadline) runs it
    ...     machine.before(42) is None
    True
    """

    plan: Plan  # that it ran under

    def __init__(self) -> None:
        self.refused: dict[int, str] = {}  # step -> why there is no snapshot of it
        self.over = False  # the script ended, or came to its horizon, and the snapshots wait
        self._snapshots: dict[int, Snapshot] = {}
        self._line: socket.socket | None = None
        self._child: Child | None = None

    def run(self, plan: Plan, steps: Iterable[int], deadline: float) -> bool:
        """Runs the script up to the plan's horizon; False where it didn't get there by `deadline` (time.monotonic).

        Args:
            steps: After which a snapshot is to be left, if that is possible; further ones come at growing intervals.
        """
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.plan = plan
        plan = replace(plan, line=theirs.fileno(), snapshots=tuple(steps))
        self._child = launch(plan, dict.fromkeys(SINGLE, "1"), pass_fds=(theirs.fileno(),))
        theirs.close()
        while not self.over and time.monotonic() < deadline:
            if select.select([self._line], [], [], 0.05)[0] and not self._hear():
                break
            if self._child.poll() is not None and not select.select([self._line], [], [], 0)[0]:
                break
        return self.over or self._child.poll() is not None

    def before(self, step: int) -> Snapshot | None:
        """The last snapshot from which this step is still to come; None where there is none."""
        there = [own for own, snapshot in self._snapshots.items() if own < step and not snapshot.gone]
        return self._snapshots[max(there)] if there else None

    def close(self) -> None:
        """Every process of it has ended."""
        for snapshot in self._snapshots.values():
            snapshot.close()
        if self._line is not None:
            self._line.close()
        if self._child is not None:
            if self.over:  # it ends by itself now that nobody is on the line
                with suppress(subprocess.TimeoutExpired):
                    self._child.wait(GRACE)
            stop(self._child)

    def __enter__(self) -> TimeMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self.over = self.over and (kind is None or issubclass(kind, Exception))
        self.close()

    def _hear(self) -> bool:
        """Takes in one message of the script's; False where the line is dead."""
        assert self._line is not None
        try:
            said, doors, _, _ = socket.recv_fds(self._line, LONGEST, 1)
        except OSError:
            return False
        if not said:
            return False
        told: dict[str, Any] = json.loads(said)
        if "snapshot" in told:
            self._snapshots[told["snapshot"]] = Snapshot(told["snapshot"], socket.socket(fileno=doors[0]))
        elif "gone" in told:
            snapshot = self._snapshots.pop(told["gone"], None)
            if snapshot is not None:
                snapshot.close()
        elif "refused" in told:
            self.refused[told["refused"]] = told["why"]
        else:
            self.over = True
        return True
