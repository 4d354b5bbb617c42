"""Starting a script many times: each is a copy of a process that has torch loaded already."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import replace

from gradbelt.supervise.launch import Child, launch, stop
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import Snapshot


class Starter:
    """Starts plans that differ in their remedies and folders alone, and spares all but the first the import of torch.

    A plan runs from its first line as in a process of its own. What it can't do is choose torch's environment before it
    loads torch. Where no process can be copied (no Linux, several threads) each gets its own.
    """

    def __init__(self, plan: Plan, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._first: Child | None = None
        self._copies: Snapshot | None = None
        if sys.platform == "linux":
            door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            waiting = replace(plan, door=theirs.fileno())
            self._first = launch(waiting, environment, pass_fds=(theirs.fileno(),))
            theirs.close()
            self._copies = Snapshot(-1, door)

    def start(self, plan: Plan) -> Child:
        """The plan's process."""
        woken = None if self._copies is None or self._copies.gone else self._copies.wake(plan)
        return launch(plan, self._environment) if woken is None else woken

    def close(self) -> None:
        """Ends what is kept, and what was started from it."""
        if self._copies is not None:
            self._copies.close()
        if self._first is not None:
            stop(self._first)
