"""Steps at which the host never waits for the device: decided there, recorded when the numbers have come.

The limit of the coming step is known from the past, so all else is arithmetic on the device: norms, their total, the
factor, and whether the step is to be left out. The optimizer's fused kernel carries it out (see `fold`). The numbers
travel meanwhile. They are asked for when the same optimizer steps again, before anything is decided there: rules see
exactly the past that they would have seen, and decide the same. By then the device has a whole step to do, so that the
host may have to wait for the numbers, but never the device for the host.

What is different: a row is written, and findings are told, one step late; and a gradient that holds both inf and nan
is recorded as "nan", since all that is left of it is its norm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt import kernels
from gradbelt._types import Action, Activation, Floats, History, Measurement, Skip
from gradbelt.belt.apply import act, gradients_of
from gradbelt.belt.beside import Beside
from gradbelt.belt.fold import is_fused
from gradbelt.belt.mass import Sample, sample
from gradbelt.belt.measure import Reading
from gradbelt.belt.optimizers import evaluates_often
from gradbelt.clip import Rule
from gradbelt.clip.rule import Notes, accepted, limit_ahead
from gradbelt.errors import UsageError
from gradbelt.kernels.foreach import PLAIN
from gradbelt.kernels.reading import extremes_anywhere

MOST = 1e37  # above it a division is not carried out by a float32, so the step is left out
NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})  # a float64 holds every square of their numbers

PAST = accepted(1.0)  # after which every rule that ever knows its limit beforehand knows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A step that has taken place, and whose numbers are on their way."""

    index: int  # of its optimizer
    names: tuple[str, ...]
    known: Beside  # some of it still on the device
    sampled: bool  # whether the norms of the weights, the peaks and zeros of the gradients are among the numbers
    time: float
    shown: Callable[[], tuple[Activation, ...]]  # what was seen in its forward pass
    arrived: Callable[[], Floats]
    some: Callable[[], Sample] | None  # numbers of the gradients, where they are looked at

    def read(self) -> tuple[Reading, Beside, bool]:
        """The numbers, and whether the device left the step out though its gradient was finite."""
        numbers, count = self.arrived(), len(self.names)
        end = count * (4 if self.sampled else 1)
        norm, *more = numbers[:end].reshape(-1, count) if count else [numbers[:0]] * (4 if self.sampled else 1)
        weight, peak, zeros = more or (None, None, None)
        refused, *beside = numbers[end:].tolist()
        bad = {i: "nan" if np.isnan(norm[i]) else "inf" for i in np.flatnonzero(~np.isfinite(norm)).tolist()}
        reading = Reading(
            norm=norm, total=kernels.total(norm), weight=weight, peak=peak, zeros=zeros, bad=bad,
            some=None if self.some is None else self.some(),
        )  # fmt: skip
        return reading, self.known.filled(beside), bool(refused)


class Lateness:
    """Which steps are taken late, and those whose numbers have not been asked for yet.

    `wait`: True, none; False, all that can be, and UsageError for an optimizer of which none can; None, on CUDA all
    that can be.
    """

    def __init__(self, wait: bool | None) -> None:
        self._wait = wait
        self._under_way: deque[Late] = deque()

    def check(self, optimizer: Optimizer, parameters: Sequence[Tensor], rules: Sequence[Rule], *, guard: bool) -> bool:
        """Whether steps of this optimizer can be taken late, and shall be. Raises UsageError where they can't but must.

        What cannot change from step to step is looked at here.
        """
        if self._wait or (self._wait is None and not any(parameter.is_cuda for parameter in parameters)):
            return False
        why = why_not(optimizer, parameters, rules, guard=guard)
        if why is not None and self._wait is False:
            raise UsageError(f"wait=False can't be honoured: {why}. With wait=None the belt waits where it has to.")
        return why is None

    def limit(
        self, optimizer: Optimizer, held: Sequence[Tensor], rules: Sequence[Rule], history: History, *, guard: bool
    ) -> float | None:
        """The limit that a step taken late is held to, inf for none; None where this step must wait."""
        if not self.check(optimizer, held, rules, guard=guard) or ((guard or rules) and not has_momentum(optimizer)):
            return None
        return limit_ahead(rules[0] if rules else None, history)

    def add(self, late: Late) -> None:
        """A step has taken place, and its numbers are under way."""
        self._under_way.append(late)

    def due(self, index: int | None = None) -> Iterator[Late]:
        """The steps under way, oldest first, up to the last one of this optimizer; all of them for None."""
        while any(index in (None, late.index) for late in self._under_way):
            yield self._under_way.popleft()

    def forget(self) -> None:
        """Whatever is under way is asked for no more."""
        self._under_way.clear()


def begin(
    acting: Optimizer, held: Sequence[Tensor], known: Beside, *, limit: float, guard: bool, weights: bool, **about: Any
) -> Late:
    """Decides a step on the device and tells the optimizer that is about to run; its numbers are on their way."""
    gradients = gradients_of(held)
    with torch.no_grad():
        norms = [_norms(gradients)]
        refused = torch.zeros((), dtype=torch.bool, device=norms[0].device)
        if guard or limit < np.inf:
            refused = _steer(acting, norms[0], known, limit=limit, guard=guard)
        if weights:
            norms += [_norms([parameter.detach() for parameter in held]), *_extremes(gradients)]
        some = sample(gradients) if weights else None
        arrived = kernels.send([*norms, refused, *known.tensors])
    return Late(known=known, sampled=weights, arrived=arrived, some=some, **about)


def act_late(
    rules: Sequence[Rule], refused: bool, seen: Measurement, history: History, *, guard: bool
) -> tuple[Action, Measurement, Notes]:
    """What the device has done: the same rule on the same past, so the same action."""
    if refused:
        return Skip("too large to be scaled"), seen, {}
    return act(rules, (), seen, history, guard=guard, fold=lambda *_: True)


def why_not(optimizer: Optimizer, parameters: Sequence[Tensor], rules: Sequence[Rule], *, guard: bool) -> str | None:
    """What keeps the steps of this optimizer from being taken late; None if nothing does."""
    kind = type(optimizer).__name__
    gradients = gradients_of(parameters)
    devices = {parameter.device for parameter in parameters}
    if evaluates_often(optimizer):
        return f"{kind} may evaluate its closure several times in a step, and each gradient decides about the next"
    if len(devices) != 1 or next(iter(devices)).type not in ("cpu", "cuda"):
        return (
            f"{kind}'s parameters lie on {', '.join(sorted(map(str, devices)))}; one CUDA device, or the CPU, can do it"
        )
    if not (
        PLAIN.issuperset(map(type, [*parameters, *gradients]))
        and NARROW.issuperset(tensor.dtype for tensor in [*parameters, *gradients])
        and all(gradient.layout is torch.strided for gradient in gradients)
    ):
        return f"{kind} holds parameters or gradients that are not plain, dense float32, float16 or bfloat16 tensors"
    if not (guard or rules):
        return None  # nothing has to be carried out
    if not is_fused(optimizer):
        return f"{kind} has a group that is not fused; Adam, AdamW, SGD and Adagrad with fused=True can do it"
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len({id(parameter) for parameter in listed}) != len(listed):
        return f"{kind} has a parameter in two groups"
    if len(rules) > 1 or limit_ahead(rules[0] if rules else None, PAST) is None:
        return f"{' and '.join(map(repr, rules))} can't say beforehand which total norm a step will be held to"
    return None


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether each momentum that this step needs is there already.

    Fused SGD makes it from the first gradient; where it is told to leave that step out it keeps uninitialised memory
    as momentum instead (torch 2.13).
    """
    return all(
        optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        for group in optimizer.param_groups
        if group.get("momentum")
        for parameter in group["params"]
        if parameter.grad is not None
    )


def _steer(acting: Optimizer, norms: Tensor, known: Beside, *, limit: float, guard: bool) -> Tensor:
    """Tells the kernel by how much to divide and whether to leave the step out; answers whether it is too large to."""
    scale, found_inf = known.scale, known.found_inf
    scale = scale.to(norms.device, non_blocking=True) if isinstance(scale, Tensor) else scale
    total = torch.linalg.vector_norm(norms) / scale
    finite = torch.isfinite(total)
    by = torch.where(finite, (total / limit).clamp(min=1.0), torch.ones_like(total)) * scale
    refused = by > MOST
    out = refused | ~finite if guard else refused
    if isinstance(found_inf, Tensor):
        out = out | (found_inf.to(norms.device, non_blocking=True) != 0.0)
    acting.grad_scale = by.float()  # type: ignore[attr-defined]
    acting.found_inf = out.float()  # type: ignore[attr-defined]
    return refused


def _extremes(gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(P,) largest magnitudes and shares of zeros, still on the device."""
    if not gradients:
        return torch.zeros(0), torch.zeros(0)
    found = [extremes_anywhere(gradient) for gradient in gradients]
    shares = [num_zeros / max(each.numel(), 1) for (_, num_zeros), each in zip(found, gradients, strict=True)]
    return torch.stack([peak for peak, _ in found]), torch.stack(shares)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """(P,) L2 norms in float64, still on the device: no square of a narrower number overflows or vanishes there."""
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack(torch._foreach_norm(list(tensors), 2.0, dtype=torch.float64))
