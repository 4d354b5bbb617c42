"""`Belt`: fastened to optimizers, it measures, clips and records each of their steps. The one object that remembers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt._types import Course, History, Skip, StepRecord, Verdict
from gradbelt.belt.account import Account
from gradbelt.belt.apply import withhold
from gradbelt.belt.closure import look_again, watched
from gradbelt.belt.derive import derive, learn
from gradbelt.belt.fold import fold, folded, is_fused, stand_in
from gradbelt.belt.forward import Forward
from gradbelt.belt.judge import judge
from gradbelt.belt.loop import Loop
from gradbelt.belt.memory import Memory
from gradbelt.belt.optimizers import evaluates_often, held_by, snapshot, with_gradient
from gradbelt.belt.record import record
from gradbelt.belt.updates import must_have_moments
from gradbelt.clip import Chain, Rule, Update
from gradbelt.clip.advice import Advice, advise
from gradbelt.errors import UsageError

Before = Callable[[Optimizer, int], Callable[[], None] | None]
"""Called before a step with the optimizer and the step; answers what undoes it after the step, or None."""


class Belt(Loop):
    """What a user holds: a loop through the stages, fastened to optimizers by a hook before each step and one after."""

    def __init__(
        self,
        *,
        clip: Rule | Chain | float | str | None = None,
        guard: bool = False,
        wait: bool | None = True,
        write: Callable[[StepRecord], None] | None = None,
        name: Callable[[Sequence[Tensor]], tuple[str, ...]] | None = None,
        tell: Callable[[Verdict], None] | None = None,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(clip=clip, guard=guard, wait=wait, write=write, name=name, tell=tell, forward=forward)
        self.before: list[Before] = []
        self.shield: Callable[[Callable[[], None]], object] = lambda act: act()  # calls what of ours runs in a closure
        self._handles: weakref.WeakKeyDictionary[Optimizer, list[Any]] = weakref.WeakKeyDictionary()
        self._order: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._num_optimizers = 0
        self._withheld: list[Callable[[], None]] = []  # what puts gradients back after a step that is left out
        self._undo: list[Callable[[], None]] = []  # and what else was changed for the step alone
        self._open: StepRecord | None = None  # of a step with a closure, until it ends

    # ------------------------------------------------------------------------------------------------ what a user calls

    def see(self, loss: Tensor, where: str = "loss") -> Tensor:
        """Notes a loss for the step it belongs to, and hands it back. Losses of one name within a step are averaged."""
        self._losses.note(loss, where)
        if self.buckle is not None:
            self.buckle.saw(loss, where)
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
        if self.snapshots is not None:
            self.snapshots.release()
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()
        self.forward.close()

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
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was taken."""
        self.catch_up()
        self._memory.load_state_dict(state)

    def rollback(self) -> int:
        """Training goes on from the last certified snapshot, bit for bit; answers the step that comes next.

        Weights, buffers, moments, random numbers, what was given to `Snapshots(also=...)` and the belt's own memory are
        what they were then; gradients are gone. To be called between two steps. The data is the caller's: skip the
        batches up to the failure, or begin again at the step that is answered.

        Raises:
            UsageError: The belt was fastened without snapshots, or none is certified yet.
        """
        if self.snapshots is None:
            raise UsageError("nothing to go back to: fasten(..., snapshots=100) keeps a snapshot every 100 steps")
        self._settle()
        self.catch_up()
        self.load_state_dict(self.snapshots.rollback())
        self._losses.take()
        self.unclipped = None
        return self.step

    @property
    def calls(self) -> int:
        """Steps of all optimizers so far."""
        return self._memory.calls

    @property
    def step(self) -> int:
        """The step that comes next, should the optimizer that was called first be called again."""
        return self._memory.next_step

    @property
    def latest(self) -> int | None:
        """The step that took place last; None before the first."""
        return self._memory.step if self._memory.calls else None

    @property
    def histories(self) -> Mapping[int, History]:
        """What is remembered of each optimizer, counted in the order they first stepped; -1 is a loop that has none."""
        return self._memory.histories

    @property
    def course(self) -> Course:
        """Where the loss has been."""
        return self._memory.course

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
            closure = kwargs.get("closure") or (args[1] if len(args) > 1 and callable(args[1]) else None)
            # a scaler that leaves its decision to a fused step may leave this one out
            if closure is None and not hasattr(optimizer, "found_inf") and self._passes_over(index):
                return None
            for before in self.before:
                undo = before(optimizer, self._memory.history(index).steps)
                if undo is not None:
                    self._undo.append(undo)
            # args[0], not optimizer: whoever came before may have folded something in already
            acting = stand_in(args[0]) if is_fused(optimizer) or self._slows() else args[0]
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
        index = self._index(optimizer)
        if self.buckle is not None:
            self.buckle.after_step(index, optimizer)
        if self.snapshots is not None and index == 0:
            self.snapshots.completed()
        self.forward.begin(index, eager=self._memory.has_jumped(index))

    def manual_step(self, parameters: Sequence[Tensor]) -> None:
        """For a loop without an optimizer: call it between `backward` and the update that the loop writes by hand."""
        self._settle()
        self.catch_up()
        if self._passes_over(-1):
            return
        held = with_gradient(parameters)
        looked = self._look(-1, held)
        assert looked is not None
        row, action = looked
        if isinstance(action, Skip):
            # the loop reads p.grad itself, so a gradient of zero, not None, leaves the weights alone
            for parameter in held:
                parameter.grad = torch.zeros_like(parameter.grad) if parameter.grad is not None else None
        self._close(row)
        self.forward.begin(-1, eager=self._memory.has_jumped(-1))

    def left_out(self) -> None:
        """A loss scaler left this step out: it doesn't count, and its losses are no part of the next step's."""
        self._leave_out()
        self.unclipped = None

    def forget(self) -> None:
        """Starts counting and learning anew."""
        self._late.forget()
        self._memory = Memory()

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
        held, history = held_by(optimizer), self._memory.history(index)
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

    def _measured(self, index: int, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, measured after each evaluation.

        An evaluation that is not finite takes the whole step back, line search and state included, so a copy is kept of
        both while the belt guards.
        """
        put_back = snapshot(optimizer) if self.guard and evaluates_often(optimizer) else None
        before = self._memory.history(index)

        def evaluated() -> None:
            if self._open is None:
                self._open = self._take(index, optimizer)
            else:
                self._open = self._again(self._open, held_by(optimizer), before)
            if put_back is not None and self._withheld and put_back not in self._undo:
                self._undo.append(put_back)

        return watched(
            closure,
            optimizer,
            look=lambda: self.shield(evaluated),
            refused=lambda: bool(self._withheld),
            settle=self._settle,
        )

    def _again(self, row: StepRecord, held: list[Tensor], before: History) -> StepRecord:
        """The record of the step after a further evaluation."""
        self._losses.take()  # the step has the loss of its first evaluation
        if not (self.guard or self.rules):
            return row
        names = self._names(row.optimizer, held)
        seen, action = look_again(row, held, names, self.rules, before, guard=self.guard)
        if not isinstance(action, Skip):
            return row
        self._withheld.append(withhold(held))
        if row.action.startswith("skip"):
            return row
        # in place of what was learnt from the first evaluation, which is taken back with it
        self._memory.keep(row.optimizer, learn(before, seen, action, 0.0), seen.total)
        self._say(judge(derive(seen, before, self.course), before), seen.step)
        return record(seen, seen, action, time=row.time)

    def _settle(self) -> None:
        """Ends the step that is open, if one is: undoes what was for that step alone, newest first, and writes it."""
        while self._withheld:
            self._withheld.pop()()
        while self._undo:
            self._undo.pop()()
        row, self._open = self._open, None
        self._close(row)
