"""Gradients of float16 whose numbers are nearly too small for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.rows import recorded


def _faint(*shares: float) -> list[StepRecord]:
    return [recorded(0, 2.3, *(1.0 for _ in shares), faint=np.array(shares, np.float32))]


@dataclass(frozen=True, slots=True)
class GradUnderflow:
    """Half of the gradients that are of float16, or more, have `share` of their numbers below 1e-6, those that have
    become 0 left out.

    Such a number has at most four of its eleven bits left, and one below 3e-8 none: it is 0. That is what a loss scale
    is for. A script that computes in float16 without one (`autocast` without `GradScaler`, a whole net in half) trains
    on what is left of the gradient, and its norm says nothing of what is not. Only watched: a training that has come to
    its end has small gradients, too. float32 and bfloat16 go down to 1e-38. Nothing is said of the upper end: a loss
    scaler raises its scale until a gradient gets there. Source: IEEE 754's half precision;
    Micikevicius et al., 2018 (Mixed precision training), whose histogram of gradients lies mostly below its range.

    False alarms: gradients of another format that are counts, of many sizes, over a power of two. Not seen: gradients
    that something else than a loss scale was multiplied with since (a clip by norm, a mean over ranks), which no longer
    are of that format; those that are sharded; what lies between the looks.
    """

    share: float = 0.5
    kinds: tuple[str, ...] = ("grad_wall",)

    CALM: ClassVar = (_faint(0.3, 0.4, 0.99), _faint(np.nan, np.nan), _faint(0.0))
    SICK: ClassVar = (_faint(0.3, 0.6, 0.99), _faint(np.nan, 0.8))

    def look(self, signals: Signals, history: History) -> Finding | None:
        faint = np.zeros(0) if signals.faint is None else signals.faint[np.isfinite(signals.faint)]
        half = float(np.median(faint)) if len(faint) else 0.0
        if not half >= self.share:
            return None
        return Finding(
            kind="grad_wall", step=signals.step, level=Level.WATCH, value=half, limit=self.share, shape="underflow",
            message=tell(
                "step {step}: half of the float16 gradients, or more, have {share} of their numbers below 1e-6, where "
                "little is left of them; smaller ones have become 0",
                step=signals.step, share=f"{half:.0%}",
            ),
        )  # fmt: skip
