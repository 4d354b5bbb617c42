"""The buckle check: is the belt put on right? What is wrong is said once, within the first steps; then it is over.

It reads small things only: one small gradient of each optimizer, kept for a step, and numbers that were measured
anyway. Nothing of the user's is changed, and a fault of ours ends the check and nothing else.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt._types import Action, ClipUpdate, Floats, Keep, Measurement, Misfit, Scale, Skip
from gradbelt.belt.agree import Agreement
from gradbelt.belt.graphs import Graphs
from gradbelt.belt.misfits import misfit
from gradbelt.belt.optimizers import held_by
from gradbelt.belt.overwritten import writes_over_nan
from gradbelt.clip import Norm, Rule, Value
from gradbelt.errors import BuckleWarning

FOLLOWED = 20  # steps of an optimizer at which one of its gradients is kept until the next
ZEROED = 5  # of these, those at which it is looked for what the backward pass adds to
STALE = 3  # steps in a row that began with the gradient of the one before
SMALL = 2**16  # elements of the gradient that is kept, at most
LAST = 200  # calls after which nothing is looked at any more
ALWAYS = 100  # steps after which clipping that acted at 99 % of them is told
LOOSE = 10.0  # times the largest norm seen: a threshold above that is far from acting
UNHELD = (5, 10)  # calls at which parameters without an optimizer are looked for; both must find them
SAME = 3e-5  # relative: norms that were clipped to the same threshold
PILE = 8  # of them, which no unclipped run has

F = TypeVar("F", bound=Callable[..., None])


def harmless(check: F) -> F:
    """A fault of ours ends the check. What was found is said outside, where a user's filter may turn it into an
    error."""

    @functools.wraps(check)
    def guarded(self: Buckle, *args: Any) -> None:
        if self.done:
            return
        try:
            check(self, *args)
        except Exception:
            self.release()
        while self._unsaid:
            self._say(self._unsaid.pop(0))

    return guarded  # type: ignore[return-value]


def warn(found: Misfit) -> None:
    """Says it as a BuckleWarning, at the line of the user's that called the optimizer."""
    ours = (os.path.dirname(os.path.dirname(__file__)) + os.sep, os.path.dirname(torch.__file__) + os.sep)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"step {found.step}: {found.message}", BuckleWarning, stacklevel=level)


class Buckle:
    """Looks on at the first steps. `found` is what was found so far, each kind once."""

    def __init__(
        self,
        say: Callable[[Misfit], None] = warn,
        *,
        parameters: Callable[[], Iterable[tuple[str, Tensor]]] = tuple,
        optimizers: Callable[[], Iterable[Optimizer]] = tuple,
    ) -> None:
        self.found: list[Misfit] = []
        self.done = False
        self._say, self._unsaid = say, list[Misfit]()
        self._parameters, self._optimizers = parameters, optimizers
        self._followed: dict[int, _Followed] = {}
        self._tallies: dict[int, _Tally] = {}
        self._unheld, self._still = set[int](), dict[int, Tensor]()  # ids; and the value of one of them
        self._agreement = Agreement()
        self._graphs: dict[str, Graphs] = {}
        self._step = 0

    @harmless
    def before_step(self, index: int, optimizer: Optimizer) -> None:
        """The gradients are as the script leaves them to `optimizer.step`."""
        followed = self._followed.get(index)
        if followed is None:
            return
        if followed.shrunk_since():
            self._find("clip_after_step")
        if followed.starts_stale():
            self._find("never_zeroed")
        followed.let_go()

    @harmless
    def looked(self, rules: Iterable[Rule], seen: Measurement, action: Action) -> None:
        """The gradients were measured, and the belt has acted on them."""
        self._step = seen.step
        if seen.call >= LAST:
            self.release()
            return
        if isinstance(action, Scale) and torch._C._current_graph_task_id() != -1:
            self._find("step_in_backward", count=len(seen.names))
        tally = self._tallies.setdefault(seen.optimizer, _Tally())
        tally.add(seen, action)
        for kind, params in tally.tells(tuple(rules)):
            self._find(kind, **params)
        if seen.call in UNHELD and seen.optimizer >= 0:  # -1 moves its parameters by hand
            self._look_for_unheld()
        disagreement = self._agreement.look(seen)
        if disagreement is not None:
            self._note(disagreement)

    @harmless
    def after_step(self, index: int, optimizer: Optimizer) -> None:
        """The step has used the gradients: from here on nothing should change them but what makes room for new ones."""
        followed = self._followed.setdefault(index, _Followed())
        followed.take(optimizer)

    @harmless
    def saw(self, loss: Tensor, where: str) -> None:
        """A loss of this call site, before its backward pass."""
        if where not in self._graphs and (function := writes_over_nan(loss)) is not None:
            self._find("nan_overwritten", function=function)
        found = self._graphs.setdefault(where, Graphs()).saw(loss)
        if found is not None:
            self._find(found[0], **found[1])

    @harmless
    def report(self, kind: str, params: Mapping[str, Any]) -> None:
        """Something that was seen elsewhere."""
        self._find(kind, **params)

    def used(self, parameters: Iterable[Tensor]) -> bool:
        """Whether among these is one whose gradient a step has used and nothing has touched since, as far as that is
        followed."""
        parameters = list(parameters)
        return any(followed.untouched(each) for followed in self._followed.values() for each in parameters)

    def release(self) -> None:
        """Ends the check: nothing is held any more, and no hook is left."""
        self.done = True
        for followed in self._followed.values():
            followed.end()
        self._followed.clear()
        self._tallies.clear()
        self._still.clear()
        self._graphs.clear()

    def _find(self, kind: str, **params: Any) -> None:
        self._note(misfit(kind, self._step, **params))

    def _note(self, found: Misfit) -> None:
        if all(known.kind != found.kind for known in self.found):
            self.found.append(found)
            self._unsaid.append(found)

    def _look_for_unheld(self) -> None:
        """Parameters that had a gradient at both looks, did not move in between, and are in no optimizer."""
        held = {id(p) for each in self._optimizers() for group in each.param_groups for p in group["params"]}
        without = [
            (name, p) for name, p in self._parameters() if p.requires_grad and p.grad is not None and id(p) not in held
        ]
        again = [name for name, p in without if id(p) in self._unheld]
        # one that moves without an optimizer speaks for all: the script has a way of its own
        stands = all(torch.equal(p.detach(), self._still[id(p)]) for _, p in without if id(p) in self._still)
        if again and stands:
            self._find("unheld_parameters", count=len(again), name=again[0])
        small = [p for _, p in without if p.numel() <= SMALL][:1]
        self._unheld, self._still = {id(p) for _, p in without}, {id(p): p.detach().clone() for p in small}


class _Followed:
    """One small gradient of an optimizer, from the step that used it to the next."""

    def __init__(self) -> None:
        self._of: weakref.ref[Tensor] | None = None
        self._gradient: Tensor | None = None  # the very tensor that the step used
        self._copy: Tensor | None = None  # and what was in it then
        self._hook: Any = None
        self._added, self._fresh = False, False
        self._stale, self._takes = 0, 0

    def take(self, optimizer: Optimizer) -> None:
        """Keeps the gradient that a step has just used."""
        self._takes += 1
        if self._takes > FOLLOWED:
            self.end()
            return
        parameter = self._of() if self._of is not None else None
        if parameter is None:
            parameter = small_one(optimizer)
            if parameter is None:
                return
            self._of = weakref.ref(parameter)
            self._hook = parameter.register_hook(self._adds)  # type: ignore[no-untyped-call]
        if self._takes > ZEROED:
            self._unhook()
        self._added = self._fresh = False
        if parameter.grad is not None:
            self._gradient, self._copy = parameter.grad, parameter.grad.detach().clone()

    def shrunk_since(self) -> bool:
        """Whether something has clipped the gradient after it was used.

        Only where the script has dropped it for a new one: the old tensor then has no business changing. One that was
        zeroed in place holds the gradient of another batch by now, which may happen to be a multiple.
        """
        parameter = self._of() if self._of is not None else None
        if parameter is None or self._gradient is None or self._copy is None or parameter.grad is self._gradient:
            return False
        return is_clipped(self._copy, self._gradient.detach())

    def starts_stale(self) -> bool:
        """Whether, for some steps now, no backward pass found the gradient empty."""
        self._stale = self._stale + 1 if self._added and not self._fresh else 0
        return self._stale >= STALE

    def untouched(self, parameter: Tensor) -> bool:
        """Whether this is the parameter, and its gradient still what the step used."""
        if self._of is None or self._of() is not parameter or self._gradient is None or self._copy is None:
            return False
        return parameter.grad is self._gradient and torch.equal(self._gradient.detach(), self._copy)

    def let_go(self) -> None:
        self._gradient = self._copy = None

    def end(self) -> None:
        self.let_go()
        self._unhook()

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _adds(self, _new: Tensor) -> None:
        """Called by the backward pass before it adds to the parameter's gradient."""
        parameter = self._of() if self._of is not None else None
        if parameter is None or self._fresh:
            return
        try:
            self._added = True
            self._fresh = parameter.grad is None or not bool((parameter.grad != 0).any())
        except Exception:
            self._fresh = True


@dataclass
class _Tally:
    """What the measured numbers of one optimizer add up to."""

    steps: int = 0
    acted: int = 0
    twice: int = 0  # steps at which both the script and the belt clipped
    top: float = 0.0  # largest total norm
    pile: int = 0  # steps that had it, to SAME
    first: Floats | None = field(default=None, repr=False)  # the gradients' norms at the first of them
    varied: bool = False  # whether these differed among them

    def add(self, seen: Measurement, action: Action) -> None:
        if not seen.finite or isinstance(action, Skip):
            return
        self.steps += 1
        self.acted += isinstance(action, Scale)
        clipped = seen.unclipped is not None and seen.unclipped > seen.total * (1 + SAME)
        self.twice += clipped and not isinstance(action, Keep | ClipUpdate)
        if seen.total > self.top * (1 + SAME):
            self.top, self.pile, self.first, self.varied = seen.total, 1, seen.norm, False
        elif seen.total >= self.top * (1 - SAME) and self.first is not None:
            self.pile += 1
            if len(self.first) == len(seen.norm):
                self.varied = self.varied or bool((abs(seen.norm - self.first) > 0.01 * self.top).any())

    def tells(self, rules: tuple[Rule, ...]) -> Iterable[tuple[str, dict[str, Any]]]:
        if not rules:
            return
        # a norm that is the same again and again while its parts differ was made so
        if self.twice >= STALE or (self.pile >= PILE and self.varied):
            yield "double_clip", {"norm": f"{self.top:.3g}"}
        if self.steps == ALWAYS and self.acted >= 0.99 * ALWAYS:
            yield "clip_always_acts", {"count": self.acted, "steps": self.steps}
        match rules:
            case (Norm(max_norm=limit),) | (Value(limit=limit),):
                if self.steps == LAST and LOOSE * self.top < limit < math.inf:
                    yield "clip_never_acts", {"limit": f"{limit:.3g}", "steps": LAST, "largest": f"{self.top:.3g}"}


def small_one(optimizer: Optimizer) -> Tensor | None:
    """The parameter whose gradient is the smallest that is worth following; None where none is.

    Dense, not all zero, and not a view of a larger buffer, which keeping it would keep alive.
    """
    fit = [
        parameter
        for parameter in held_by(optimizer)
        if (gradient := parameter.grad) is not None
        and type(gradient) is Tensor
        and gradient.layout is torch.strided
        and 2 <= gradient.numel() <= SMALL
        and gradient.untyped_storage().nbytes() <= 2 * gradient.numel() * gradient.element_size()
        and parameter.requires_grad
    ]
    fit.sort(key=Tensor.numel)
    return next((p for p in fit[:5] if p.grad is not None and bool((p.grad != 0).any())), None)


def is_clipped(before: Tensor, now: Tensor) -> bool:
    """Whether `now` is `before` times a number between 0 and 1, or clamped into a narrower range.

    >>> g = torch.tensor([3.0, -4.0, 0.5])
    >>> is_clipped(g, g * 0.2), is_clipped(g, g.clamp(-1, 1)), is_clipped(g, g), is_clipped(g, g * 0)
    (True, True, False, False)
    >>> is_clipped(g, torch.tensor([1.0, 1.0, 1.0]))
    False
    """
    if torch.equal(before, now):
        return False
    old, new = (torch.view_as_real(t) if t.is_complex() else t for t in (before, now))
    a, b = old.double().flatten(), new.double().flatten()
    square = float(a @ a)
    factor = float(a @ b) / square if 0.0 < square < math.inf else 0.0
    if not 0.0 < factor < 0.999:  # nan is not either
        return False
    if float((b - factor * a).norm()) <= 4 * torch.finfo(now.dtype).eps * float(b.norm()):
        return True
    limit = float(b.abs().max())
    return limit < float(a.abs().max()) and torch.equal(b, a.clamp(-limit, limit))
