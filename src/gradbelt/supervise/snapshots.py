"""The child's side of the time machine: paused copies of a running script.

A copy is made by fork, so it shares the script's memory until one of them writes to it, and holds everything: weights,
moments, random numbers, iterators, the user's own Python. It waits until it is woken, with a plan of its own, as often
as one likes: what goes on is a copy of the copy.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import random
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from gradbelt.supervise.launch import log_of
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import LONGEST

MOST = 6  # copies beside those that were asked for
SHARE = 0.03  # of the run's time that goes into copies nobody asked for
WORST = 4.0  # times what a fork takes, for pages that are written to afterwards and copied one by one, where few are
PAGE = 3e-6  # seconds for each such page where they are many: weights, gradients, moments, all within one step
OWN = 80_000  # pages that Python and torch hold themselves and hardly write to
POLL = 0.02  # seconds between looks at those that were woken
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1


class Snapshots:
    """Leaves copies behind while a script runs: after the steps that were asked for, and at growing intervals.

    Args:
        line: To the parent, which gets a door to each copy. wanted: Steps after which one is to be left in any case.
        go_on: Called in a process that was woken, with its plan. refused: Called with a step and the reason why no copy
        could be left where one was wanted.
    """

    def __init__(
        self,
        line: socket.socket,
        wanted: Collection[int],
        *,
        go_on: Callable[[Plan], None],
        refused: Callable[[int, str], None],
    ) -> None:
        self._line, self._wanted, self._go_on, self._refused = line, frozenset(wanted), go_on, refused
        self._began, self._spent = time.monotonic(), 0.0
        self._left: dict[int, int] = {}  # step -> process

    def __contains__(self, step: int) -> bool:
        return step in self._left

    def after(self, step: int) -> None:
        """The step is complete. Returns in this process, and in each that is woken from the copy left here."""
        if step in self._left or not (step in self._wanted or self._is_cheap()):
            return
        why = obstacle(besides=self._left.values(), ours=self._line.fileno())
        if why is None:
            try:
                plan = self._leave(step)
            except OSError as error:  # no more processes, no more memory
                why = error.strerror or str(error)
            else:
                if plan is not None:
                    self._go_on(plan)
                return
        self._spent += SHARE * (time.monotonic() - self._began)  # what stands in the way will stand there for a while
        if step in self._wanted:
            self._refused(step, why)
            self._say(refused=step, why=why)

    def forget(self) -> None:
        """All copies are gone: steps are counted anew."""
        for step in list(self._left):
            self._drop(step)

    def linger(self) -> None:
        """The script is over; its copies live until the parent hangs up, or dies."""
        flush()
        self._say(over=True)
        with suppress(OSError):
            self._line.settimeout(None)
            self._line.recv(1)
        self.forget()
        self._line.close()

    def _is_cheap(self) -> bool:
        left = SHARE * (time.monotonic() - self._began) - self._spent
        return left > 0 and left > PAGE * max(0, _pages() - OWN)

    def _leave(self, step: int) -> Plan | None:
        """A copy waits for the parent's word. None in this process; the plan in one that is woken."""
        began = time.monotonic()
        flush()  # what is held back would be said once more by every copy
        drawn = random.getstate()  # Python draws it anew in a process that was forked
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            return _Copy(ours, parent, drawn).pause(theirs, self._line)
        ours.close()
        socket.send_fds(self._line, [_packed(snapshot=step)], [theirs.fileno()])
        theirs.close()
        self._left[step] = pid
        spare = [step for step in self._left if step not in self._wanted]
        if len(spare) > MOST:
            self._drop(_least(spare, step))
        self._spent += WORST * (time.monotonic() - began) + PAGE * max(0, _pages() - OWN)
        return None

    def _drop(self, step: int) -> None:
        pid = self._left.pop(step)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self._say(gone=step)

    def _say(self, **what: object) -> None:
        with suppress(OSError):
            self._line.send(_packed(**what))


def _packed(**what: object) -> bytes:
    return json.dumps(what).encode()


def _least(steps: list[int], now: int) -> int:
    """The copy that would be missed least: its gap is smallest for its age. Never the first or the last.

    >>> _least([0, 10, 20, 30, 40], 40)
    10
    """
    threes = zip(steps, steps[1:], steps[2:], strict=False)
    return min(((after - before) / (now - before), step) for before, step, after in threes)[1]


def flush() -> None:
    """What the script has printed is where it goes."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


# ----------------------------------------------------------------------------------------------- what stands in the way


def obstacle(*, besides: Collection[int] = (), ours: int = -1) -> str | None:
    """Why a copy of this process would not be whole, or not apart from it; None where nothing stands in the way.

    Args:
        besides: Child processes that don't count. ours: A descriptor that doesn't.
    """
    if sys.platform != "linux":
        return "snapshots need Linux"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is in use"
    if torch is not None and torch.get_num_threads() > 1:
        return f"the script has torch use {torch.get_num_threads()} threads"
    if (num := len(os.listdir("/proc/self/task"))) > 1:
        named = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        return f"the script has {num - 1} more thread{'s' if num > 2 else ''} ({', '.join(named) or 'not Python'})"
    if _children() - set(besides):
        return "the script has child processes (data loader workers, for example)"
    return _shared(ours)


def _pages() -> int:
    """Pages of memory that this process has written to, and no file stands behind; 0 where that can't be known."""
    try:
        with open("/proc/self/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except OSError:
        return 0
    return resident - shared


def _children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return set(map(int, file.read().split()))
    except OSError:  # a kernel without that list
        return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def _shared(ours: int) -> str | None:
    """What two processes would both write to, or take out of each other's hands."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if int(name) > 2 and int(name) != ours and target.startswith(("socket:", "pipe:")):
                return "the script holds a connection open"
    with open("/proc/self/maps") as maps:
        for line in maps:
            _, access, _, _, _, *path = line.split(maxsplit=5)
            ours_too = "".join(path).rstrip().endswith("blackbox.sqlite-shm")  # a copy opens a black box of its own
            if access[1] == "w" and access[3] == "s" and not ours_too:
                return "the script has memory that processes share"
    return None


def loaded(door: int) -> Plan:
    """Returns in every copy of this process that is woken, with its plan; torch is loaded by then, and nothing has run.

    Where something stands in the way of copies the process ends.
    """
    parent = os.getppid()
    try:
        # every optimizer loads torch._dynamo, which takes as long as torch itself
        for name in ("torch._dynamo", "gradbelt.belt.belt", "gradbelt.supervise.seams"):
            importlib.import_module(name)
    except ImportError:
        os._exit(1)
    if obstacle(ours=door) is not None:
        os._exit(1)
    gc.freeze()  # a copy that ends would look through all that is loaded, and by that have every page of it copied
    plan = _Copy(socket.socket(fileno=door), parent, random.getstate()).pause()
    with log_of(plan) as log:
        os.dup2(log.fileno(), 2)
    return plan


# ------------------------------------------------------------------------------------------------------------- the copy


@dataclass(slots=True)
class _Copy:
    """This process, as it was at the fork; all of it that memory doesn't hold is kept here."""

    door: socket.socket
    parent: int
    drawn: tuple[object, ...]

    def pause(self, *others: socket.socket) -> Plan:
        """Returns in every process that is woken, and in no other."""
        try:
            die_with(self.parent)
            for other in others:
                other.close()
            files = _files()
            handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
            plan = self._serve()
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            _reopen(files)
            random.setstate(self.drawn)
            return plan
        except BaseException:
            os._exit(1)

    def _serve(self) -> Plan:
        awake: set[int] = set()
        while True:
            asked = None
            if select.select([self.door], [], [], POLL if awake else None)[0]:
                asked = json.loads(self.door.recv(LONGEST) or "null")
                if asked is None:  # the parent is gone, or needs this copy no longer
                    for pid in awake:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    os._exit(0)
            if asked and "signal" in asked:
                if asked["to"] in awake:
                    os.kill(asked["to"], asked["signal"])
            elif asked:
                me = os.getpid()
                pid = os.fork()
                if pid == 0:
                    die_with(me)
                    self.door.close()
                    return Plan.of(asked)
                awake.add(pid)
                self.door.send(_packed(woken=pid))
            for pid in list(awake):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    awake.remove(pid)
                    self.door.send(_packed(ended=pid, code=os.waitstatus_to_exitcode(status)))


def die_with(parent: int) -> None:
    """This process is killed when `parent` ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _files() -> dict[int, tuple[int, int]]:
    """Every plain file that is open: descriptor -> how it was opened, and the place in it."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with suppress(OSError):
            if fd > 2 and stat.S_ISREG(os.fstat(fd).st_mode):
                found[fd] = fcntl.fcntl(fd, fcntl.F_GETFL), os.lseek(fd, 0, os.SEEK_CUR)
    return found


def _reopen(files: dict[int, tuple[int, int]]) -> None:
    """The same files at the same places, apart from those of the process it was copied from.

    Those go on reading: after a fork both would move one place. What can only be written to goes nowhere.
    """
    for fd, (how, place) in files.items():
        with suppress(OSError):
            writes = how & os.O_ACCMODE == os.O_WRONLY
            new = os.open(os.devnull, os.O_WRONLY) if writes else os.open(f"/proc/self/fd/{fd}", how & os.O_ACCMODE)
            if not writes:
                os.lseek(new, place, os.SEEK_SET)
            os.dup2(new, fd, inheritable=os.get_inheritable(fd))
            os.close(new)
