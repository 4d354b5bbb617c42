"""The mass of gradients lies piled at one bound, as clipping by value leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.grad_wall import LARGEST
from gradbelt.symptoms.rows import recorded


def _ending(at: tuple[float, ...], piled: tuple[float, ...]) -> list[StepRecord]:
    """A step whose gradients end at these numbers, with so much of each piled there."""
    of = np.zeros(len(at), np.float32)
    seen = {"peak": np.array(at, np.float32), "zeros": of, "piled": np.array(piled, np.float32)}
    return [recorded(0, 2.3, *(1.0 for _ in at), **seen)]


@dataclass(frozen=True, slots=True)
class GradPile:
    """At least `share` of the numbers, other than 0, of two gradients or more lies at their largest magnitude, which is
    the same in all of them, to the bit; and what lies beneath it differs from number to number.

    So a clip by value leaves gradients (`clip_grad_value_`, a hook that clamps). Scaled down as a whole a gradient
    keeps its direction; cut number by number it turns towards its signs, the more of it the further, and the small
    numbers gain on the large. Only watched: some train well by it, with a bound that few numbers reach. What backward
    and the script left is looked at, before the belt clips: where it clips by value, that was asked for. Source:
    `torch.nn.utils.clip_grad_value_`; Pascanu et al., 2013 (On the difficulty of training RNNs), who rescale the norm
    instead; a histogram's wall, as one sees it in TensorBoard.

    False alarms: two gradients that are residuals of a Huber loss, an element each. Not seen: a bound that only one
    gradient meets, or all numbers of all gradients do, which are then signs, and may be meant as such; micro-batches or
    ranks that are clipped by themselves and then added up; gradients that are sharded; what lies between the looks, at
    the first ten steps, every tenth, and after a jump.
    """

    share: float = 0.1
    kinds: tuple[str, ...] = ("grad_wall",)

    CALM: ClassVar = (
        _ending((0.5, 0.5, 0.3), (0.01, 0.05, 0.9)),
        _ending((0.5, 0.6), (0.9, 0.9)),
        _ending((0.5, 0.5), (np.nan, np.nan)),
        _ending((0.0, 0.0), (np.nan, np.nan)),
        _ending((65504.0, 65504.0), (0.5, 0.5)),
    )
    SICK: ClassVar = (_ending((0.5, 0.1, 0.5), (0.4, 0.01, 0.12)), _ending((1e-9, 1e-9), (1.0, 0.98)))

    def look(self, signals: Signals, history: History) -> Finding | None:
        if signals.piled is None or signals.peak is None:
            return None
        piled = np.where(signals.piled >= self.share, signals.piled, 0.0)  # nan is not
        bounds, counts = np.unique(signals.peak[(piled > 0.0) & np.isfinite(signals.peak)], return_counts=True)
        if not len(bounds) or counts.max() < 2 or bounds[counts.argmax()] in LARGEST:
            return None
        bound = bounds[counts.argmax()]
        worst = int(np.argmax(np.where(signals.peak == bound, piled, 0.0)))
        return Finding(
            kind="grad_wall", step=signals.step, level=Level.WATCH, where=signals.names[worst], shape="pile",
            value=float(piled[worst]), limit=self.share,
            message=tell(
                "step {step}: {share} of the gradient of {where} lies at {bound}, where those of {count} parameters "
                "end: they were clipped by value",
                step=signals.step, share=f"{piled[worst]:.0%}", where=signals.names[worst], bound=f"{bound:.4g}",
                count=int(counts.max()),
            ),
        )  # fmt: skip
