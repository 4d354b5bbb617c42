"""What the script itself clips and scales, and whether it does so where it can help."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt.belt.buckle import Buckle, small_one
from gradbelt.clip.dropin import raw_gradients

LOOKS = 20  # calls of each kind that are looked at
FAR = 100.0  # a threshold this far below the loss scale was not multiplied by it

F = TypeVar("F", bound=Callable[..., None])


def harmless(look: F) -> F:
    """A fault of ours ends the buckle check, and nothing else."""

    @functools.wraps(look)
    def guarded(self: Clipping, *args: Any) -> None:
        if not self.buckle.done:
            try:
                look(self, *args)
            except Exception:
                self.buckle.release()

    return guarded  # type: ignore[return-value]


class Clipping:
    """Follows clip functions, loss scalers and steps, and reports to the buckle check what does not fit together.

    `optimizers` are those that the script has made. What is still multiplied by a loss scale is told by its bits, which
    are those that the backward pass left: a script may unscale in ways of its own.
    """

    def __init__(self, buckle: Buckle, optimizers: Iterable[Optimizer]) -> None:
        self.buckle = buckle
        self._optimizers = optimizers
        self._scale = 1.0  # of the last backward pass
        self._scaled: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}  # optimizer -> a parameter, its gradient then
        self._thresholds: dict[int, float] = {}  # optimizer -> what its scaled gradients were clipped to
        self._used, self._limit, self._touched = False, math.nan, list[int]()  # by the clip that is going on
        self._in_scaler = False
        self._clips = self._backwards = 0

    @harmless
    def after_backward(self, scaler: torch.amp.GradScaler | None) -> None:
        """A backward pass has run on a loss that this scaler had scaled, or that none had."""
        self._scaled.clear()
        self._thresholds.clear()
        if scaler is None or self._backwards >= LOOKS:
            return
        self._backwards += 1
        self._scale = float(scaler.get_scale())
        for optimizer in self._optimizers if self._scale != 1.0 else ():
            parameter = small_one(optimizer)
            if parameter is not None and parameter.grad is not None and bool(parameter.grad.isfinite().all()):
                self._scaled[id(optimizer)] = weakref.ref(parameter), parameter.grad.detach().clone()

    @harmless
    def before_clip(self, function: str, parameters: Any, limit: Any) -> None:
        """The script is about to clip the gradients of these parameters."""
        self._used, self._touched = False, []
        if self._clips >= LOOKS:
            return
        self._clips += 1
        given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if raw_gradients(given):
            self.buckle.report("raw_gradients", {"function": function})
        self._limit = float(limit)
        self._used = self.buckle.used(given)
        ids = set(map(id, given))
        self._touched = [key for key, (of, _) in self._scaled.items() if id(of()) in ids and self._is_scaled(key)]

    @harmless
    def after_clip(self, total: Any) -> None:
        """It has; `total` is what the function answered."""
        if self._used and isinstance(total, Tensor) and float(total) > self._limit:
            self.buckle.report("clip_after_step", {})
        for key in self._touched:
            if self._limit * FAR < self._scale:
                self._thresholds[key] = self._limit
            of, _ = self._scaled[key]
            if (parameter := of()) is not None and parameter.grad is not None:
                self._scaled[key] = of, parameter.grad.detach().clone()  # clipped, and still scaled
        self._touched = []

    @harmless
    def before_scaler_step(self, optimizer: Optimizer) -> None:
        """The script has called `scaler.step(optimizer)`, which unscales first where the script has not."""
        self._in_scaler = True
        self.before_unscale(optimizer)

    @harmless
    def before_unscale(self, optimizer: Optimizer) -> None:
        """The gradients are about to be unscaled."""
        threshold = self._thresholds.get(id(optimizer))
        if threshold is not None and self._is_scaled(id(optimizer)):
            self.buckle.report("clip_before_unscale", {"scale": f"{self._scale:g}", "limit": f"{threshold:g}"})

    @harmless
    def after_scaler_step(self) -> None:
        self._in_scaler = False

    @harmless
    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        if not self._in_scaler and self._is_scaled(id(optimizer)):
            self.buckle.report("step_on_scaled", {"scale": f"{self._scale:g}"})

    def _is_scaled(self, key: int) -> bool:
        of, copy = self._scaled.get(key, (None, None))
        parameter = None if of is None else of()
        if parameter is None or parameter.grad is None or copy is None:
            return False
        return torch.equal(parameter.grad.detach(), copy)
