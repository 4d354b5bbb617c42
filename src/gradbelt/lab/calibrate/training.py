"""A training as its user would write it, and the one object it is handed: what it draws, fastens and learns from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradbelt._types import StepRecord
from gradbelt.belt.belt import Belt
from gradbelt.belt.fasten import fasten
from gradbelt.errors import BuckleWarning
from gradbelt.lab.calibrate.fault import Fault

Batch: TypeAlias = tuple[Tensor, ...]
LOST = 10  # steps in a row without a finite loss after which a run is over


@dataclass(frozen=True, slots=True)
class Learnt:
    """How a training went, by what it was for: a held-out loss, or minus a return, before and after.

    It has learnt where it ended lower than it began, by `share` of where it began or more; nothing else makes a
    training healthy.

    >>> Learnt(2.3, 0.4).healthy, Learnt(2.3, 2.2).healthy, Learnt(-5.0, -30.0).healthy, Learnt(1.0, math.nan).healthy
    (True, False, True, False)
    """

    before: float
    after: float
    share: float = 0.3

    @property
    def healthy(self) -> bool:
        return self.before - self.after >= self.share * abs(self.before)


class Training:
    """Handed to a script: seeds it, feeds it, records it, and lets a fault get in where one was asked for."""

    def __init__(
        self, *, seed: int, steps: int, write: Callable[[StepRecord], None], fault: Fault | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.seed, self.steps, self.fault = seed, steps, fault
        self.step = 0
        self.sizes: dict[str, int] = {}  # elements of each parameter
        self.losses: list[float] = []  # one a step, the sum of what the script showed
        self._belt: Belt | None = None
        self._write = write
        self._seen = 0.0
        self._lost = 0

    def fasten(
        self, model: nn.Module, *optimizers: Optimizer, clip: float | None = None, scaler: GradScaler | None = None
    ) -> None:
        """Every step of these optimizers is recorded from now on; nothing is changed but by the fault, or `clip`."""
        self.sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        if self.fault is not None:
            self.fault.enter(model)
            for optimizer in optimizers:  # before the belt, which is to see what the fault made of the gradients
                optimizer.register_step_pre_hook(self._before)
                optimizer.register_step_post_hook(self._after)
        self._belt = fasten(model, optimizers, clip=clip, guard=False, wait=True, write=self._write, scaler=scaler)

    def batches(self, draw: Callable[[], Batch]) -> Iterator[Batch]:
        """One batch a step; the fault may have its hand in it."""
        for step in range(self.steps):
            self.step = step
            batch = draw()
            yield batch if self.fault is None else self.fault.batch(self.step, batch)
            self.losses.append(self._seen)
            self._lost = 0 if math.isfinite(self._seen) else self._lost + 1
            self._seen = 0.0
            if self._lost >= LOST:
                return

    def see(self, loss: Tensor, where: str = "loss") -> Tensor:
        """The loss, noted; `backward` is to be called on what comes back."""
        if self.fault is not None:
            loss = self.fault.loss(self.step, loss)
        self._seen += float(loss.detach())
        return loss if self._belt is None else self._belt.see(loss, where)

    def run(self, script: Callable[[Training], Learnt]) -> Learnt:
        """What the script learnt; the belt is off again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BuckleWarning)  # of healthy habits that look odd, and of the faults
            learnt = script(self)
        if self._belt is not None:
            self._belt.release()
        return learnt

    def _before(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        assert self.fault is not None
        self.fault.gradients(self.step, optimizer)

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        assert self.fault is not None
        self.fault.after(self.step, optimizer)
