"""The gradient jumps, or one step moves the weights by more than their own size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals
from gradbelt.symptoms.given_back import given_back


@dataclass(frozen=True, slots=True)
class GradExplosion:
    """Two faces of one thing: the norm stands far above its own past, or a single step multiplied the weights.

    The first is a robust z on ln(norm) (median and MAD of the accepted steps) above `z`, and at least `ratio` times
    the median, after a warm-up. The second needs no past: the weight norm grew by `growth` or more from one step to
    the next, or by `between` or more over the few steps between two at which weights are read; `moved` is enough, once
    a level is known, where the loss has given back half of what had been learnt, counted as a ratio: an update as large
    as the weights that did harm, as from second moments that were lost. A warning, not an alarm: runs survive both, and
    whether this one did shows in the loss. Except where the weights grew `ruin` times and
    the gradient fell to a ten-thousandth at once: that net is dead, however its last layer's loss still falls. Source:
    median and MAD (Hampel, 1974), on logarithms, since gradients scale by factors.

    Silent on: warm restarts, GAN swings, a single outlier of less than `ratio`. False alarms: a linear model started at
    nearly zero, whose first step is rightly larger than its weights.
    """

    z: float = 6.0
    ratio: float = 20.0
    growth: float = 3.0
    between: float = 10.0
    moved: float = 2.0
    ruin: float = 100.0
    kinds: tuple[str, ...] = ("grad_explosion",)

    CALM: ClassVar = (
        [(1.0, 1.0, 1.0)] * 60,
        [(1.0, 1.0 + 0.5 * (i % 3), 1.0) for i in range(60)] + [(1.0, 12.0, 1.0)],
        [(1.0, 1.0, 1.0 + 0.05 * i) for i in range(60)],
        [(2.0 if i < 10 else 0.2, 1.0, 1.0 if i < 40 else 2.5) for i in range(60)],
    )
    SICK: ClassVar = (
        [(1.0, 1e9, 1.0), (1.0, 1.0, 1e6)],
        [(1.0, 1.0, 1.0)] * 40 + [(1.0, 400.0, 1.0)],
        [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0)],
        [(2.0 if i < 10 else 0.2 if i < 40 else 1.5, 1.0, 1.0 if i < 42 else 2.5) for i in range(60)],
    )

    def look(self, signals: Signals, history: History) -> Finding | None:
        if not math.isfinite(signals.total):
            return None  # told by nonfinite_grad
        grown = self._grown(signals, history)
        if grown is not None:
            return grown
        if signals.warm and signals.z > self.z and signals.ratio > self.ratio:
            return Finding(
                kind="grad_explosion",
                step=signals.step,
                level=Level.WARN,
                where=signals.worst[0] if signals.worst else None,
                value=signals.total,
                limit=(history.median or 0.0) * self.ratio,
                shape="jump",
                message=tell(
                    "step {step}: gradient norm {value}, {ratio} times its median",
                    step=signals.step,
                    value=f"{signals.total:.4g}",
                    ratio=f"{signals.ratio:.3g}",
                ),
            )
        return None

    def _grown(self, signals: Signals, history: History) -> Finding | None:
        """The finding for weights that are suddenly larger: from one step to the next, or since they were last read."""
        since = history.steps - history.weight_at
        growth = signals.growth
        if since > 1 and signals.weight and history.weight_last:
            growth = signals.weight / history.weight_last
        limit, step = (self.growth, signals.step - 1) if since == 1 else (self.between, signals.step)
        if signals.warm and given_back(signals.course):
            limit = self.moved
        if not (math.isfinite(growth) and growth >= limit):
            return None
        silent = bool(history.levels) and history.levels[-1] - signals.level > math.log(1e4)
        ratio = f"{growth:.3g}"
        return Finding(
            kind="grad_explosion",
            step=step,
            level=Level.ALARM if silent and growth >= self.ruin else Level.WARN,
            value=growth,
            limit=limit,
            shape="growth",
            message=tell("step {step}: one step made the weights {growth} times as large", step=step, growth=ratio)
            if since == 1
            else tell(
                "step {step}: the weights are {growth} times as large as {since} steps before",
                step=step,
                growth=ratio,
                since=since,
            ),
        )
