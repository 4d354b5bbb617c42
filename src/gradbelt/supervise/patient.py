"""The child's side of a watched run: the script, the belt around it, the black box beside it."""

from __future__ import annotations

import atexit
import math
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from gradbelt._types import STREAK, Event, Misfit, StepRecord, Verdict
from gradbelt.belt import misfits
from gradbelt.blackbox import Writer
from gradbelt.errors import GradbeltError
from gradbelt.supervise.deeds import ACTED, IDLE, Deeds
from gradbelt.supervise.imports import AfterImport
from gradbelt.supervise.launch import log_of
from gradbelt.supervise.output import tee_stdout
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.prospect import LOST, Prospect
from gradbelt.supervise.script import Enough, exit_like_python, run_module, run_script
from gradbelt.supervise.seeding import (
    seed_numpy,
    seed_python,
    seed_torch,
    shift_numpy,
    shift_python,
    shift_torch,
)
from gradbelt.supervise.sites import here

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradbelt.belt.belt import Belt
    from gradbelt.belt.buckle import Buckle
    from gradbelt.supervise.seams import Seams
    from gradbelt.supervise.snapshots import Snapshots

T = TypeVar("T")
AtCall: TypeAlias = "Callable[[nn.Module, Sequence[Any], dict[str, Any]], None]"
SEVERAL = 20  # optimizers of a run that are told apart
UNFORKED = "no_snapshot"  # kind of event: where the time machine wanted a snapshot, and why there is none


class Patient:
    """One script, run once. What acts on it from outside is put into the lists below before torch is used.

    A remedy adds to them in its `fit`; the tracer does too. `belt` and `seams` exist once torch was imported.
    """

    belt: Belt
    seams: Seams

    def __init__(self, plan: Plan, *, warn: Callable[[str], None]) -> None:
        self.plan, self.warn = plan, warn
        self.at_torch: list[Callable[[Patient], None]] = []  # torch was imported, nothing of it used yet
        self.at_model: list[Callable[[nn.Module], None]] = []  # before the first forward of an outermost module
        self.at_call: list[AtCall] = []  # then, with its arguments by position and by name
        self.at_optimizer: list[Callable[[Optimizer], None]] = []  # before an optimizer's first step
        self.at_backward: list[Callable[[Sequence[Tensor]], None]] = []  # before a backward, with its losses
        self.after_backward: list[Callable[[Sequence[Tensor]], None]] = []
        self.by_hand: list[Callable[[int], float]] = []  # step -> factor on the update of a loop without optimizer
        self.at_step: list[Callable[[StepRecord], None]] = []  # a step was recorded
        self.after_step: list[Callable[[int], None]] = []  # it is complete; by hand: nothing but the update is to come
        self.at_end: list[Callable[[], None]] = []
        self._deeds: list[Deeds] = []
        self.around = ExitStack()  # context managers that last as long as the script
        self.announce: Callable[[Verdict], None] | None = None
        self.equip: Callable[[Plan], None] = lambda _plan: None  # puts on what a plan asks for; again when woken
        self.snapshots: Snapshots | None = None  # that this process leaves behind; it is not woken from one
        self.stepped_at: str | None = None  # the line that called optimizer.step, or backward where there is none
        self.steps_at: dict[str, None] = {}  # all such lines, in the order of their first step
        self.made_at: dict[str, None] = {}  # where the optimizers that stepped were constructed
        self.steppers: list[tuple[str, str]] = []  # class of each optimizer, and the line of its first step
        self.buckle: Buckle | None = None  # the check that clipping is put on right; none in a trial
        self.writer: Writer | None = None
        self._failed = False
        self._prospect = Prospect(plan.par)
        self._parent = os.getppid()
        self._turn_log: Callable[[Path], None] = lambda _log: None
        self._woken = False
        self._belted = math.nan  # when the belt was put on: rows count their time from there

    # ------------------------------------------------------------------------------------------------------ life cycle

    def run(self, script: Callable[[], None] | None = None) -> int:
        """Runs the script to its end and answers its exit code; the black box is closed when the interpreter ends.

        Args:
            script: What to run in place of the plan's script.
        """
        plan = self.plan
        folder = Path(plan.folder)
        self.writer = Writer(folder, self._meta(), warn=self.warn)
        self._turn_log = tee_stdout(folder / "stdout.log", silent=plan.quiet)
        seed_python(plan.seed)
        if plan.shift:
            shift_python(plan.shift)
        self.equip(plan)
        imported: dict[str, Callable[[ModuleType], None]] = {
            "numpy": self._numpy_is_here,
            "torch": lambda torch: self.guarded(self._torch_is_here, torch),
        }
        if plan.line is not None:
            self._leave_snapshots(plan.line)
            imported["tqdm.std"] = _without_monitor
        imports = AfterImport(imported)
        imports.install()
        atexit.register(self._end)  # first in, last out: after the script's own exit functions and threads
        run = run_module if plan.module else run_script
        code = exit_like_python(script or (lambda: run(plan.script, plan.argv)), self._note_error)
        imports.uninstall()
        self._note_exit(code)
        if self._woken:
            from gradbelt.supervise.snapshots import flush

            # the script's exit functions and open files are those of the process it is a copy of
            self._end()
            flush()
            os._exit(code if code >= 0 else 128 - code)
        if self.snapshots is not None:
            self.snapshots.linger()
        if code == -signal.SIGINT:
            atexit._run_exitfuncs()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return code

    def _leave_snapshots(self, line: int) -> None:
        from gradbelt.supervise.snapshots import Snapshots

        self.snapshots = Snapshots(
            socket.socket(fileno=line),
            self.plan.snapshots,
            go_on=self._go_on,
            refused=lambda step, why: self.event(UNFORKED, f"no snapshot after step {step}: {why}", step=step, why=why),
        )
        self.after_step.insert(0, self.snapshots.after)

    def _go_on(self, plan: Plan) -> None:
        """This process is a copy, woken: from here on it follows another plan, and leaves a record of its own."""
        known, done = len(self.at_optimizer), len(self.plan.remedies)
        self.plan = plan
        self.snapshots, self._woken, self._parent, self._prospect = None, True, os.getppid(), Prospect()
        with log_of(plan) as log:
            os.dup2(log.fileno(), 2)
        self._turn_log(Path(plan.folder) / "stdout.log")
        self.writer = Writer(Path(plan.folder), {**self._meta(), "began_at": self.belt.calls}, warn=self.warn)
        self._note_torch()
        self.at_torch.clear()
        self.equip(replace(plan, remedies=plan.remedies[done:]))
        for act in self.at_torch:
            act(self)
        self.seams.fit(self.at_optimizer[known:])

    def leave_no_trace(self) -> None:
        """This process is a copy that others don't know of: it writes nothing, and ends without the script's exit
        functions."""
        self.snapshots, self.writer, self._woken = None, None, True

    def completed(self) -> None:
        """A step is complete."""
        step = self.belt.latest
        if step is not None:
            for act in self.after_step:
                act(step)

    def enter(self, manager: AbstractContextManager[Any]) -> None:
        """Enters a context that lasts until the script ends."""
        self.around.enter_context(manager)

    def deeds(self, remedy: str, *, otherwise: str, soon: bool = False) -> Deeds:
        """A remedy's account of what it does. At the end it becomes an event; one that did nothing says `otherwise`.

        Args:
            soon: What it looks for is part of every step: its trial ends where the first steps hold nothing of it.
        """
        self._deeds.append(Deeds(remedy, otherwise, soon=soon))
        return self._deeds[-1]

    def end_if_idle(self, names: set[str]) -> None:
        """From now on the run ends at the step by which remedies of these names would have found something to do."""

        def look(row: StepRecord) -> None:
            if row.step == self.plan.settled:
                idle = {deeds.remedy for deeds in self._deeds if deeds.soon and not deeds.done}
                if names <= idle:
                    raise Enough

        self.at_step.append(look)

    def _numpy_is_here(self, numpy: ModuleType) -> None:
        seed_numpy(numpy, self.plan.seed)
        if self.plan.shift:
            shift_numpy(numpy, self.plan.shift)

    def _torch_is_here(self, torch: ModuleType) -> None:
        from gradbelt.belt.belt import Belt
        from gradbelt.belt.buckle import Buckle
        from gradbelt.belt.forward import Forward
        from gradbelt.supervise.names import Names, named_parameters
        from gradbelt.supervise.printed import Printed
        from gradbelt.supervise.seams import Seams
        from gradbelt.supervise.spoilt import Spoilt

        seed_torch(torch, self.plan.seed)
        if self.plan.shift:
            shift_torch(torch, self.plan.shift)
        names = Names()
        forward = Forward(0.0 if self.plan.quiet else self.plan.activations, name=names.of, warn=self.warn)
        self._belted = time.time()
        self.belt = Belt(clip=self.plan.clip, write=self._write, name=names, tell=self.announce, forward=forward)
        self.belt.shield, self.belt.passes = self.guarded, lambda step: self.plan.passes(step)
        if not self.plan.quiet:
            self.buckle = self.belt.buckle = Buckle(
                self.misfit, parameters=named_parameters, optimizers=lambda: self.seams.optimizers
            )
            Spoilt(self)
            Printed(self, sys.stdout)
        self.seams = Seams(self)
        for act in self.at_torch:
            act(self)
        self.seams.open()
        self._note_torch()

    def _note_torch(self) -> None:
        torch = sys.modules["torch"]
        self._note(
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            cuda=torch.version.cuda,
            belt_began=self._belted,
        )

    def _end(self) -> None:
        self.guarded(self._finish)

    def _finish(self) -> None:
        for act in self.at_end:
            self.guarded(act)  # one that fails costs neither the record nor what comes off below
        for deeds in self._deeds:
            if deeds.done:
                self.event(ACTED, deeds.message, **deeds.data)
            else:
                self.idle(deeds.remedy, deeds.otherwise)
        if hasattr(self, "seams"):
            self.seams.close()
            self.belt.release()
            self.around.close()
        if self.writer is not None:
            self.writer.close()

    # ----------------------------------------------------------------------------------------------------- the record

    def step_by_hand(self, parameters: Sequence[Tensor]) -> None:
        """The script has no optimizer: its backward counts as the step."""
        self.stepped_at = here()
        self.belt.manual_step(parameters)
        step = self.belt.latest
        assert step is not None
        factor = math.prod(factor(step) for factor in self.by_hand)
        for parameter in parameters if factor != 1.0 else ():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        self.completed()

    def start_over(self) -> None:
        """Forgets what was counted so far."""
        self.belt.forget()
        if self.snapshots is not None:
            self.snapshots.forget()
        if self.writer is not None:
            self.writer.restart()

    def left_out(self, scaler: Any, known: bool) -> None:
        """A GradScaler has left a step out; by design a few, in a row too many. `known`: the belt has seen it."""
        if not known:
            self.belt.left_out()
        if self.belt.streak == STREAK:
            self.event("scaler_spiral", f"the loss scaler left out {STREAK} steps in a row", scale=scaler.get_scale())

    def idle(self, name: str, why: str) -> None:
        """A remedy found nothing to do."""
        self.event(IDLE, f"{name} found nothing to do: {why}", remedy=name)
        self.warn(f"{name} found nothing to do: {why}")

    def event(self, kind: str, message: str, **data: Any) -> None:
        if self.writer is not None:
            calls, step = (self.belt.calls, self.belt.step) if hasattr(self, "belt") else (0, 0)
            self.writer.event(Event(call=calls, step=step, kind=kind, message=message, data=data))

    def misfit(self, found: Misfit) -> None:
        """Something is put on wrongly: kept, and told at the end."""
        self.event(misfits.EVENT, found.message, misfit=found.kind, params=misfits.params_of(found))

    def guarded(self, act: Callable[..., T], *args: Any) -> T | None:
        """Calls one of ours inside the user's run: if it fails, one warning, and the run goes on without us."""
        if self._failed:
            return None
        try:
            return act(*args)
        except (Enough, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            self._failed = True
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "?"
            own = isinstance(error, GradbeltError)
            self.warn(f"{error}" if own else f"{type(error).__name__} in {place}: {error}; the run goes on unwatched")
            self.event("belt_failed", f"{type(error).__name__}: {error}")
            return None

    def _write(self, row: StepRecord) -> None:
        if self.writer is not None:
            self.writer.step(row)
        for act in self.at_step:
            act(row)
        if self.plan.horizon is not None and row.step + 1 >= self.plan.horizon:
            raise Enough
        if self.plan.quiet and os.getppid() != self._parent:
            raise Enough  # nobody is left who would want to know
        tried = self.plan.quiet and self.plan.trace_step is None  # what runs again up to its onset is to get there
        if tried and (why := self._prospect.lost(row.step, row.losses, row.total)) is not None:
            self.event(LOST, why)
            raise Enough

    def _note(self, **meta: object) -> None:
        if self.writer is not None:
            self.writer.note(**meta)

    def _note_error(self, error: BaseException) -> None:
        self.event("error", f"{type(error).__name__}: {error}"[:2000])

    def _note_exit(self, code: int) -> None:
        if hasattr(self, "belt"):
            if self.writer is not None:
                self.writer.tail(self.belt.pending_losses())
            self._note(stepped_at=self.stepped_at, steps_at=list(self.steps_at), made_at=list(self.made_at))
            self._note(steppers=self.steppers[:SEVERAL])
        self._note(finished=time.time(), exit_code=code)

    def _meta(self) -> dict[str, object]:
        plan = self.plan
        return {
            "script": plan.script,
            "module": plan.module,
            "argv": list(plan.argv),
            "seed": plan.seed,
            "hash_seed": os.environ.get("PYTHONHASHSEED"),
            "remedies": list(plan.remedies),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cwd": os.getcwd(),
            "executable": sys.executable,
            "pid": os.getpid(),
        }


def _without_monitor(tqdm: ModuleType) -> None:
    """A progress bar's thread, which only refreshes bars that nobody sees, would forbid every snapshot."""
    tqdm.tqdm.monitor_interval = 0
