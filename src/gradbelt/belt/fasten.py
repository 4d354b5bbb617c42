"""`fasten`: the belt around an optimizer; and `Belt`, the one object that remembers."""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt._types import (
    Action,
    Course,
    History,
    Keep,
    Measurement,
    Point,
    Skip,
    StepRecord,
    Verdict,
)
from gradbelt.belt.apply import apply, withhold
from gradbelt.belt.decide import decide
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.judge import judge
from gradbelt.belt.measure import measure
from gradbelt.clip import Rule, as_rule

EAGER = 10  # calls at the start whose weights are all sampled
EVERY = 10  # afterwards every tenth, and those around a jump of the gradient
JUMP = 5.0  # times the median

Before = Callable[[Optimizer, int], Callable[[], None] | None]
"""Called before a step with the optimizer and the step; answers what undoes it after the step, or None."""


def fasten(
    model: torch.nn.Module | None,
    optimizer: Optimizer | Iterable[Optimizer],
    clip: Rule | float | str | None = "auto",
    *,
    guard: bool = True,
    write: Callable[[StepRecord], None] | None = None,
) -> Belt:
    """Every step of `optimizer` from now on is measured, clipped and, where its gradient is nan or inf, left out.

    Args:
        model: Names the parameters in messages and records; None leaves them numbered.
        optimizer: One `torch.optim` optimizer, or several that step by turns.
        clip: A rule, a number (global L2 norm), `"auto"`, `"norm:1.0"`, `"value:0.5"`, or None to clip nothing.
        guard: Keep steps whose gradient is not finite out of the weights (parameters, moments and counters untouched).
        write: Called with the record of each step.

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

    belt = Belt(clip=clip, guard=guard, write=write, name=name)
    for each in (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer):
        belt.hold(each)
    return belt


class Belt:
    """The loop that calls the stages, and what lives between steps: a History an optimizer and the course of the
    loss."""

    def __init__(
        self,
        *,
        clip: Rule | float | str | None = None,
        guard: bool = False,
        write: Callable[[StepRecord], None] | None = None,
        name: Callable[[Sequence[Tensor]], tuple[str, ...]] | None = None,
        tell: Callable[[Verdict], None] | None = None,
    ) -> None:
        rule = as_rule(clip)
        self.rules: list[Rule] = [] if rule is None else [rule]
        self.guard = guard
        self.before: list[Before] = []
        self.ready: list[Callable[[Sequence[Tensor]], None]] = []  # called with the parameters before they are measured
        self.calls = 0
        self.last: StepRecord | None = None
        self.unclipped: Tensor | None = None  # what the script's own clip_grad_norm_ answered since the last step
        self.histories: dict[int, History] = {}
        self.course = Course()
        self._write, self._tell, self._name = write, tell, name or _number
        self._losses: dict[str, list[Tensor]] = {}
        self._steps: dict[int, int] = {}
        self._order: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._named: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        self._undo: list[Callable[[], None]] = []
        self._open: StepRecord | None = None
        self._handles: list[Any] = []
        self._began = time.perf_counter()

    # ------------------------------------------------------------------------------------------------ what a user calls

    def see(self, loss: Tensor, where: str = "loss") -> Tensor:
        """Notes a loss for the step it belongs to, and hands it back. Losses of one name within a step are averaged."""
        self._losses.setdefault(where, []).append(loss.detach())
        return loss

    def hold(self, optimizer: Optimizer) -> None:
        """Fastens one more optimizer."""
        self._handles += [
            optimizer.register_step_pre_hook(self.pre_step),
            optimizer.register_step_post_hook(self.post_step),
        ]

    def release(self) -> None:
        """Takes every hook off; the optimizers are as they were."""
        self._settle()
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Belt:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def state_dict(self) -> dict[str, Any]:
        """What the belt remembers, as plain numbers: saved and loaded, it decides as if it had never stopped."""
        return {
            "calls": self.calls,
            "steps": dict(self._steps),
            "histories": {index: asdict(history) for index, history in self.histories.items()},
            "course": {**asdict(self.course), "streams": dict(self.course.streams)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was taken."""
        course = dict(state["course"])
        course["recent"] = tuple(Point(**point) for point in course["recent"])
        self.calls = state["calls"]
        self._steps = dict(state["steps"])
        self.histories = {index: History(**fields) for index, fields in state["histories"].items()}
        self.course = Course(**course)

    # --------------------------------------------------------------------------------------------------- the two hooks

    def pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Runs before `optimizer.step`; with a closure it hands back one that measures after each backward."""
        self._settle()
        index = self._order.setdefault(optimizer, len(self._order))
        step = self._steps.get(index, 0)
        self._undo = [undo for undo in (before(optimizer, step) for before in self.before) if undo is not None]
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 and callable(args[1]) else None)
        if closure is None:
            self._close(self._take(index, optimizer, _held_by(optimizer)))
            return None
        return self._with_closure(index, optimizer, closure, args, kwargs)

    def post_step(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Runs after `optimizer.step`: what was changed for the step alone is put back."""
        self._settle()

    def manual_step(self, parameters: Sequence[Tensor]) -> None:
        """For a loop without an optimizer: call it between `backward` and the update that the loop writes by hand."""
        self._settle()
        held = _unique(parameter for parameter in parameters if parameter.grad is not None)
        row, action = self._look(-1, held, lr=math.nan)
        if isinstance(action, Skip):
            # the loop reads p.grad itself, so a gradient of zero, not None, leaves the weights alone
            for parameter in held:
                parameter.grad = torch.zeros_like(parameter.grad) if parameter.grad is not None else None
        self._close(row)

    # ----------------------------------------------------------------------------------------------------------- inside

    def _take(self, index: int, optimizer: Optimizer, held: list[Tensor]) -> StepRecord | None:
        """Measures, decides and applies for an optimizer about to step; None where a loss scaler will skip the step."""
        found_inf, grad_scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
        if found_inf is not None and float(found_inf) != 0.0:
            return None
        scale = 1.0 if grad_scale is None else float(grad_scale)
        lr = max((float(group["lr"]) for group in optimizer.param_groups if "lr" in group), default=math.nan)
        row, action = self._look(index, held, lr=lr, scale=scale)
        if isinstance(action, Skip):
            self._undo.append(withhold(held))
        return row

    def _look(self, index: int, held: list[Tensor], *, lr: float, scale: float = 1.0) -> tuple[StepRecord, Action]:
        step, history = self._steps.get(index, 0), self.histories.get(index, History())
        for ready in self.ready:
            ready(held)
        seen = measure(
            held,
            self._names(index, held),
            call=self.calls,
            step=step,
            optimizer=index,
            losses=self._settled_losses(),
            lr=lr,
            scale=scale,
            weights=self.calls < EAGER or self.calls % EVERY == 0 or self._jumped(index),
            unclipped=None if self.unclipped is None else float(self.unclipped),
        )
        self.unclipped = None
        self.course = advance(self.course, seen)
        verdict = judge(derive(seen, history, self.course), history)
        action, after = self._act(seen, history, held, scale)
        self.histories[index] = learn(history, seen, action, after.total)
        self._steps[index] = step + 1
        self.calls += 1
        if verdict and self._tell is not None:
            self._tell(verdict)
        return _record(seen, after, action, time.perf_counter() - self._began), action

    def _act(self, seen: Measurement, history: History, held: list[Tensor], scale: float) -> tuple[Action, Measurement]:
        """The rules one after the other, each on what the one before it left; a Skip ends it."""
        done: Action = Keep()
        after = seen
        rules: Sequence[Rule | None] = self.rules or (None,)
        for rule in rules:
            action = decide(after, history, rule, guard=self.guard)
            if not isinstance(action, Keep):
                after, done = apply(action, held, after, scale=scale), action
            if isinstance(action, Skip):
                break
        return done, after

    def _with_closure(
        self, index: int, optimizer: Optimizer, closure: Callable[[], Any], args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        """The same step with a closure that measures. The first evaluation is the step's record.

        Lightning and LBFGS run forward and backward inside the step, LBFGS several times. An evaluation that is not
        finite takes the whole step back, line search and state included, so a copy is kept of both while the belt
        guards.
        """
        held = _all_of(optimizer)
        several = type(optimizer).__name__ == "LBFGS"
        saved = (
            [parameter.detach().clone() for parameter in held],
            {parameter: copy.deepcopy(state) for parameter, state in optimizer.state.items()},
        ) if self.guard and several else None  # fmt: skip

        def measured() -> Any:
            loss = closure()
            with_grad = _held_by(optimizer)
            if self._open is None:
                self._open = self._take(index, optimizer, with_grad)
            elif self.guard or self.rules:
                self._again(index, with_grad)
            row = self._open
            if saved is not None and row is not None and row.action.startswith("skip"):
                self._undo.append(lambda: _put_back(optimizer, held, saved))
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": measured}
        return (args[0], measured, *args[2:]), kwargs

    def _again(self, index: int, held: list[Tensor]) -> None:
        """A further evaluation within one step: the rules act on it, and it can only make the record worse."""
        row = self._open
        assert row is not None
        seen = replace(
            measure(held, self._names(index, held), call=row.call, step=row.step, optimizer=index, losses={}),
            losses=self._settled_losses(),
        )
        action, _ = self._act(seen, self.histories.get(index, History()), held, 1.0)
        if isinstance(action, Skip):
            self._undo.append(withhold(held))
            self._open = replace(row, action=f"skip: {action.reason}", total=seen.total, total_after=0.0, bad=seen.bad)

    def _settle(self) -> None:
        """Ends the step that is open, if one is: undoes what was for that step alone, newest first, and writes it."""
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

    def _settled_losses(self) -> dict[str, float]:
        losses = {
            where: math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values)
            for where, values in ((where, [float(t) for t in seen]) for where, seen in self._losses.items())
        }
        self._losses.clear()
        return losses

    def pending_losses(self) -> dict[str, float]:
        """Losses seen since the last step: what a run that ended between `backward` and `step` leaves."""
        return self._settled_losses()

    def _jumped(self, index: int) -> bool:
        """Whether the last step's gradient stood far above its past, so that the weights around it are worth
        reading."""
        history = self.histories.get(index)
        if history is None or history.median is None or self.last is None:
            return False
        return not self.last.total <= JUMP * history.median


def _record(seen: Measurement, after: Measurement, action: Action, seconds: float) -> StepRecord:
    skipped = isinstance(action, Skip)
    return StepRecord(
        call=seen.call,
        step=seen.step,
        optimizer=seen.optimizer,
        time=seconds,
        lr=seen.lr,
        total=seen.total,
        total_after=0.0 if skipped else after.total,
        action=f"skip: {action.reason}" if isinstance(action, Skip) else type(action).__name__.lower(),
        losses=seen.losses,
        names=seen.names,
        norm=seen.norm,
        weight=seen.weight,
        bad=seen.bad,
        unclipped=seen.unclipped,
    )


def _all_of(optimizer: Optimizer) -> list[Tensor]:
    return _unique(parameter for group in optimizer.param_groups for parameter in group["params"])


def _held_by(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for parameter in _all_of(optimizer) if parameter.grad is not None]


def _unique(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor once: a parameter that two groups share must not count twice in the norm."""
    return list({id(parameter): parameter for parameter in parameters}.values())


def _number(parameters: Sequence[Tensor]) -> tuple[str, ...]:
    return tuple(f"parameter {i}" for i in range(len(parameters)))


def _put_back(optimizer: Optimizer, parameters: list[Tensor], saved: tuple[list[Tensor], Any]) -> None:
    values, state = saved
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    optimizer.state.clear()
    optimizer.state.update(state)
