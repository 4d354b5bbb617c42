"""`fasten`: the belt around an optimizer; and `Belt`, the one object that remembers."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradbelt._types import (
    Action,
    Course,
    History,
    Measurement,
    Skip,
    StepRecord,
    Verdict,
)
from gradbelt.belt.account import Account
from gradbelt.belt.apply import Fold, act, withhold
from gradbelt.belt.beside import Beside, beside
from gradbelt.belt.buckle import Buckle
from gradbelt.belt.decide import with_notes
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.fold import fold, folded, is_fused, stand_in
from gradbelt.belt.judge import judge
from gradbelt.belt.late import Late, Lateness, act_late, begin
from gradbelt.belt.losses import Losses
from gradbelt.belt.measure import Reading, measure, read
from gradbelt.belt.memory import plain, remembered
from gradbelt.belt.optimizers import evaluates_often, held_by, snapshot, with_gradient
from gradbelt.belt.record import record
from gradbelt.belt.updates import must_have_moments, slow
from gradbelt.clip import Chain, Rule, Update, as_rule
from gradbelt.clip.advice import Advice, advise
from gradbelt.clip.rule import Notes

EAGER = 10  # steps at the start whose weights are all sampled
EVERY = 10  # afterwards every tenth, and the one after a jump of the gradient
JUMP = 5.0  # times the median

Before = Callable[[Optimizer, int], Callable[[], None] | None]
"""Called before a step with the optimizer and the step; answers what undoes it after the step, or None."""


def fasten(
    model: torch.nn.Module | None,
    optimizer: Optimizer | Iterable[Optimizer],
    clip: Rule | Chain | float | str | None = "auto",
    *,
    guard: bool = True,
    wait: bool | None = None,
    write: Callable[[StepRecord], None] | None = None,
    tell: Callable[[Verdict], None] | None = None,
) -> Belt:
    """Every step of `optimizer` from now on is measured, clipped and, where its gradient is nan or inf, left out.

    Args:
        model: Names the parameters in messages and records; None leaves them numbered.
        optimizer: One `torch.optim` optimizer, or several that step by turns.
        clip: A rule, a number (global L2 norm), `"auto"`, `"norm:1.0"`, `"value:0.5"`, or None to clip nothing.
        guard: Keep steps whose gradient is not finite out of the weights (parameters, moments and counters untouched).
        wait: Whether the host waits at each step until the device has measured it. Without waiting the device decides,
            and the record of a step is written, and judged, when the same optimizer steps again (or at `catch_up` and
            `release`). That takes a fused optimizer (if anything is to be clipped or guarded), parameters of at most 32
            bits on one device, and a rule whose limit follows from the past (Norm, Auto, Ema, ...); the rules decide
            the same. None: on CUDA it doesn't wait where all that is given. False: never, or UsageError.
        write: Called with the record of each step.
        tell: Called with what the detectors found, at each step where they found something.

    At the first steps the buckle is checked: clipping that has no effect, gradients that are never zeroed, parameters
    that no optimizer holds and the like are said once, as a `gradbelt.errors.BuckleWarning`.

    Returns:
        The belt; `belt.release()` takes every hook off again, and so does leaving it as a context manager.

    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> belt = fasten(model, optimizer, clip=1.0)
    >>> loss = belt.see(model(torch.full((8, 4), 1e3)).square().mean())
    >>> loss.backward()
    >>> optimizer.step()
    >>> belt.last.action, round(belt.last.total_after, 3)
    ('scale', 1.0)
    """
    names = {} if model is None else {id(parameter): name for name, parameter in model.named_parameters()}

    def name(parameters: Sequence[Tensor]) -> tuple[str, ...]:
        return tuple(names.get(id(parameter), f"parameter {i}") for i, parameter in enumerate(parameters))

    belt = Belt(clip=clip, guard=guard, wait=wait, write=write, name=name, tell=tell)
    belt.advises = True
    known = weakref.ref(model) if model is not None else lambda: None
    belt.buckle = Buckle(
        parameters=lambda: () if (still := known()) is None else still.named_parameters(),
        optimizers=lambda: list(belt._handles),
    )
    for each in (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer):
        belt.hold(each)
    return belt


class Belt:
    """The loop that calls the stages, and what lives between steps: a History an optimizer and the course of the
    loss."""

    def __init__(
        self,
        *,
        clip: Rule | Chain | float | str | None = None,
        guard: bool = False,
        wait: bool | None = True,
        write: Callable[[StepRecord], None] | None = None,
        name: Callable[[Sequence[Tensor]], tuple[str, ...]] | None = None,
        tell: Callable[[Verdict], None] | None = None,
    ) -> None:
        rule = as_rule(clip)
        self.rules: list[Rule] = [] if rule is None else list(rule) if isinstance(rule, Chain) else [rule]
        self.guard = guard
        self.before: list[Before] = []
        self.ready: list[Callable[[Sequence[Tensor]], None]] = []  # called with the parameters before they are measured
        self.shield: Callable[[Callable[[], None]], object] = lambda act: act()  # calls what of ours runs in a closure
        self.advises = False  # keeps account of what clipping does, for `advice`
        self.buckle: Buckle | None = None  # looks whether clipping is put on right, in the first steps
        self.calls = 0
        self.last: StepRecord | None = None
        self.unclipped: Tensor | None = None  # what the script's own clip_grad_norm_ answered since the last step
        self.histories: dict[int, History] = {}
        self._accounts: dict[int, Account] = {}
        self.course = Course()
        self._write, self._tell, self._name = write, tell, name or _number
        self._losses = Losses()
        self._late = Lateness(wait)
        self._steps: dict[int, int] = {}  # of each optimizer
        self._step, self._called = 0, set[int]()  # the step that is going on, and the optimizers called in it
        self._jumped: set[int] = set()  # optimizers whose last gradient stood far above its past
        self._order: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._num_optimizers = 0
        self._named: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        self._withheld: list[Callable[[], None]] = []
        self._undo: list[Callable[[], None]] = []
        self._open: StepRecord | None = None
        self._handles: weakref.WeakKeyDictionary[Optimizer, list[Any]] = weakref.WeakKeyDictionary()
        self._began = time.perf_counter()

    # ------------------------------------------------------------------------------------------------ what a user calls

    def see(self, loss: Tensor, where: str = "loss") -> Tensor:
        """Notes a loss for the step it belongs to, and hands it back. Losses of one name within a step are averaged."""
        self._losses.note(loss, where)
        return loss

    def hold(self, optimizer: Optimizer) -> None:
        """Fastens one more optimizer; one that is held already stays so."""
        if optimizer not in self._handles:
            if self._slows():
                must_have_moments(optimizer)
            listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self._late.check(optimizer, listed, self.rules, guard=self.guard)
            self._handles[optimizer] = [
                optimizer.register_step_pre_hook(self.pre_step),
                optimizer.register_step_post_hook(self.post_step),
            ]

    def release(self) -> None:
        """Takes every hook off; the optimizers are as they were."""
        self._settle()
        self.catch_up()
        if self.buckle is not None:
            self.buckle.release()
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()

    def catch_up(self) -> None:
        """Every step that has taken place is on record, judged and learnt from; waits for those still under way."""
        for late in self._late.due():
            self._arrive(late)

    def __enter__(self) -> Belt:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def advice(self, optimizer: int = 0) -> Advice:
        """How the clipping has fitted over the last 200 steps of an optimizer (counted in the order they first
        stepped): too tight, too loose, not needed, whether it turns the gradient. `print` it, or look at its fields.

        What is not measured is None; `bias` and `agreement` are estimates from 4096 coordinates, read at two steps out
        of ten once the belt has clipped; of a belt that doesn't wait both are None.
        """
        self.catch_up()
        account = self._accounts.get(optimizer)
        return advise((Account() if account is None else account).clipped())

    def state_dict(self) -> dict[str, Any]:
        """What the belt remembers, as plain numbers: saved and loaded, it decides as if it had never stopped.

        Survives JSON, which turns tuples into lists and numbers that are keys into text.
        """
        self.catch_up()
        return {
            "calls": self.calls,
            "steps": dict(self._steps),
            "step": self._step,
            "called": sorted(self._called),
            "jumped": sorted(self._jumped),
            **plain(self.histories, self.course),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was taken."""
        self.catch_up()
        self.calls = state["calls"]
        self._steps = {int(index): step for index, step in state["steps"].items()}
        self._step, self._called = state["step"], set(state["called"])
        self._jumped = set(state["jumped"])
        self.histories, self.course = remembered(state)

    # --------------------------------------------------------------------------------------------------- the two hooks

    def pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Runs before `optimizer.step`; with a closure it hands back one that measures after each backward."""
        self._withheld.clear()  # of a step that raised: whoever called it has gone on, and has newer gradients by now
        self._settle()
        index = self._index(optimizer)
        if self.buckle is not None:
            self.buckle.before_step(index, optimizer)
        try:
            for late in self._late.due(index):
                self._arrive(late)
            for before in self.before:
                undo = before(optimizer, self._steps.get(index, 0))
                if undo is not None:
                    self._undo.append(undo)
            # args[0], not optimizer: whoever came before may have folded something in already
            acting = stand_in(args[0]) if is_fused(optimizer) or self._slows() else args[0]
            closure = kwargs.get("closure") or (args[1] if len(args) > 1 and callable(args[1]) else None)
            if closure is not None:
                measured = self._measured(index, acting, closure)
                if "closure" in kwargs:
                    return (acting, *args[1:]), {**kwargs, "closure": measured}
                return (acting, measured, *args[2:]), kwargs
            self._close(self._take(index, acting))
        except BaseException:
            self._settle()  # torch calls no post-hook then
            raise
        return ((acting, *args[1:]), kwargs) if folded(args[0], acting) else None

    def post_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Runs after `optimizer.step`: what was changed for the step alone is put back."""
        self._settle()
        if self.buckle is not None:
            self.buckle.after_step(self._index(optimizer), optimizer)

    def manual_step(self, parameters: Sequence[Tensor]) -> None:
        """For a loop without an optimizer: call it between `backward` and the update that the loop writes by hand."""
        self._settle()
        self.catch_up()
        held = with_gradient(parameters)
        looked = self._look(-1, held)
        assert looked is not None
        row, action = looked
        if isinstance(action, Skip):
            # the loop reads p.grad itself, so a gradient of zero, not None, leaves the weights alone
            for parameter in held:
                parameter.grad = torch.zeros_like(parameter.grad) if parameter.grad is not None else None
        self._close(row)

    def left_out(self) -> None:
        """A loss scaler left this step out: it doesn't count, and its losses are no part of the next step's."""
        self._losses.leave_out()
        self.unclipped = None

    def forget(self) -> None:
        """Starts counting and learning anew."""
        self._late.forget()
        self.calls, self.histories, self.course = 0, {}, Course()
        self._steps.clear()
        self._called.clear()
        self._jumped.clear()
        self._step = 0

    @property
    def step(self) -> int:
        """The step that comes next, should the optimizer that was called first be called again."""
        return self._step + bool(self._called)

    def pending_losses(self) -> dict[str, float]:
        """Losses seen since the last step: what a run that ended between `backward` and `step` leaves."""
        self.catch_up()
        return self._losses.pending()

    # ----------------------------------------------------------------------------------------------------------- inside

    def _slows(self) -> bool:
        """Whether a rule acts on updates, not on gradients."""
        return any(isinstance(rule, Update) for rule in self.rules)

    def _index(self, optimizer: Optimizer) -> int:
        index = self._order.get(optimizer)
        if index is None:  # counted, not len(): an optimizer that is gone keeps its number
            index = self._order[optimizer] = self._num_optimizers
            self._num_optimizers += 1
        return index

    def _take(self, index: int, optimizer: Optimizer) -> StepRecord | None:
        """Measures, decides and applies for an optimizer about to step; None where a loss scaler will skip the step."""
        held, history = held_by(optimizer), self.histories.get(index, History())
        if self.advises and index not in self._accounts:
            self._accounts[index] = Account(optimizer)
        limit = self._late.limit(optimizer, held, self.rules, history, guard=self.guard)
        if limit is not None:
            self._go_on(index, held, optimizer, limit)
            return None
        self.catch_up()
        into = partial(fold, optimizer) if is_fused(optimizer) else None
        looked = self._look(index, held, optimizer, into)
        if looked is None:
            if self.guard:  # fused SGD would keep uninitialised memory as the momentum of a first step (torch 2.13)
                self._withheld.append(withhold(held))
            return None
        row, action = looked
        if isinstance(action, Skip):
            self._withheld.append(withhold(held))
        return row

    def _look(
        self, index: int, held: list[Tensor], optimizer: Optimizer | None = None, into: Fold | None = None
    ) -> tuple[StepRecord, Action] | None:
        """One step through all stages; None where a loss scaler will skip it."""
        for ready in self.ready:
            ready(held)
        now = time.perf_counter() - self._began
        arrived = self._beside(optimizer).sent()
        reading = read(held, weights=self._sampled(index))
        known = arrived()
        if known.found_inf:
            self._losses.leave_out(known.losses)
            return None
        scale = float(known.scale)
        held_back = partial(slow, optimizer, scale=scale)
        done = partial(act, self.rules, held, guard=self.guard, scale=scale, fold=into, slow=held_back)
        return self._conclude(index, held, reading, known, self._names(index, held), now, done)

    def _go_on(self, index: int, held: list[Tensor], optimizer: Optimizer, limit: float) -> None:
        """One step of which the host will know later."""
        for ready in self.ready:
            ready(held)
        self._late.add(
            begin(
                optimizer,
                held,
                self._beside(optimizer),
                limit=limit,
                guard=self.guard,
                weights=self._sampled(index),
                index=index,
                names=self._names(index, held),
                time=time.perf_counter() - self._began,
            )
        )

    def _arrive(self, late: Late) -> None:
        """What `_look` does after it has read, for a step that has taken place before."""
        reading, known, refused = late.read()
        if known.found_inf:
            self._losses.leave_out(known.losses)
            return
        done = partial(act_late, self.rules, refused, guard=self.guard)
        self._close(self._conclude(late.index, (), reading, known, late.names, late.time, done)[0])

    def _beside(self, optimizer: Optimizer | None) -> Beside:
        """What is known of the step that takes place now beside its gradients."""
        unclipped, self.unclipped = self.unclipped, None
        return beside(optimizer, self._losses.take(), unclipped)

    def _sampled(self, index: int) -> bool:
        """Whether the weights are read at this step."""
        own = self._steps.get(index, 0)
        return own < EAGER or own % EVERY == 0 or index in self._jumped

    def _conclude(
        self,
        index: int,
        held: Sequence[Tensor],
        reading: Reading,
        known: Beside,
        names: tuple[str, ...],
        now: float,
        done: Callable[[Measurement, History], tuple[Action, Measurement, Notes]],
    ) -> tuple[StepRecord, Action]:
        """From what was read to what was done about it, and what is learnt."""
        history = self.histories.get(index, History())
        if index in self._called:
            self._step += 1
            self._called.clear()
        self._called.add(index)
        seen = measure(reading, known, names, call=self.calls, step=self._step, optimizer=index)
        self.course = advance(self.course, seen)
        verdict = judge(derive(seen, history, self.course), history)
        account = self._accounts.get(index)
        if account is not None:
            account.before(held, seen, float(known.scale))
        action, after, notes = done(seen, history)
        if account is not None:
            account.add(held, seen, after, action, rules=len(self.rules), scale=float(known.scale))
        if self.buckle is not None:
            self.buckle.looked(self.rules, seen, action)
        self.histories[index] = with_notes(learn(history, seen, action, after.total), notes)
        self._watch_closer(index, seen.total)
        self._steps[index] = self._steps.get(index, 0) + 1
        self.calls += 1
        if verdict and self._tell is not None:
            self._tell(verdict)
        return record(seen, after, action, time=now), action

    def _watch_closer(self, index: int, total: float) -> None:
        """Remembers whether a gradient stood far above its past: the weights it leaves behind are worth reading."""
        middle = self.histories[index].median
        if middle is not None and not total <= JUMP * middle:
            self._jumped.add(index)
        else:
            self._jumped.discard(index)

    def _measured(self, index: int, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, measured after each call. The first evaluation is the step's record.

        Lightning and LBFGS run forward and backward inside the step, LBFGS several times. An evaluation that is not
        finite takes the whole step back, line search and state included, so a copy is kept of both while the belt
        guards.
        """
        put_back = snapshot(optimizer) if self.guard and evaluates_often(optimizer) else None
        before = self.histories.get(index, History())

        def evaluated() -> None:
            if self._open is None:
                self._open = self._take(index, optimizer)
            else:
                self._again(index, held_by(optimizer), before)
            if put_back is not None and self._withheld and put_back not in self._undo:
                self._undo.append(put_back)

        def measured() -> Any:
            try:
                loss = closure()
                first = self._open is None
                self.shield(evaluated)
            except BaseException:
                self._settle()
                raise
            # a nan makes LBFGS's line search raise IndexError; this, with no gradient, ends it at once
            return -math.inf if self._withheld and not first and isinstance(optimizer, LBFGS) else loss

        return measured

    def _again(self, index: int, held: list[Tensor], before: History) -> None:
        """A further evaluation within one step: the rules act on it, and it can only make the record worse."""
        row = self._open
        assert row is not None
        self._losses.take()  # the step has the loss of its first evaluation
        if not (self.guard or self.rules):
            return
        names = self._names(index, held)
        seen = measure(read(held), Beside(lrs=(row.lr,)), names, call=row.call, step=row.step, optimizer=index)
        seen = replace(seen, losses=row.losses, weight=row.weight, unclipped=row.unclipped)
        action, _, _ = act(self.rules, held, seen, before, guard=self.guard)
        if not isinstance(action, Skip):
            return
        self._withheld.append(withhold(held))
        if row.action.startswith("skip"):
            return
        self.histories[index] = learn(before, seen, action, 0.0)  # in place of the first evaluation, taken back with it
        self._watch_closer(index, seen.total)
        self._open = record(seen, seen, action, time=row.time)
        verdict = judge(derive(seen, before, self.course), before)
        if verdict and self._tell is not None:
            self._tell(verdict)

    def _settle(self) -> None:
        """Ends the step that is open, if one is: undoes what was for that step alone, newest first, and writes it."""
        while self._withheld:
            self._withheld.pop()()
        while self._undo:
            self._undo.pop()()
        if self._open is not None:
            self._close(self._open)

    def _close(self, row: StepRecord | None) -> None:
        self._open = None
        if row is None:
            return
        self.last = row
        if self._write is not None:
            self._write(row)

    def _names(self, index: int, held: list[Tensor]) -> tuple[str, ...]:
        key = tuple(map(id, held))
        known = self._named.get(index)
        if known is None or known[0] != key:
            known = self._named[index] = (key, self._name(held))
        return known[1]


def _number(parameters: Sequence[Tensor]) -> tuple[str, ...]:
    return tuple(f"parameter {i}" for i in range(len(parameters)))
