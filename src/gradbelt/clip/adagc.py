"""Each parameter's gradient against its own recent norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, History, Measurement, Scale, ScaleEach
from gradbelt.clip.rule import Example, accepted, as_kept, down_to, each_down_to, measured, refuse, threshold

DECAY = 0.98
START = 100  # accepted steps that are held by the norm of the whole


@dataclass(frozen=True)
class AdaGC:
    """The L2 norm of each gradient is at most `times` the moving average of its own norms, as they were after clipping.

    Use it for large models whose spikes begin in one tensor: every tensor gets its own limit and no scale has to be
    known but `start`, which the total norm is held to for the first 100 accepted steps. While those last, the smallest
    norm of a tensor is taken for its average. The limit grows by at most (times - 1) x 2 % a step, slower than any
    explosion; but from the smallest of a hundred norms it takes as many hundred steps to the typical one, and until
    then nearly every step is clipped. Adaptive optimizers don't mind, plain SGD loses time.

    Unlike the source a gradient that is all zero teaches nothing (it would hold that tensor at zero for good), and a
    tensor that first appears after the start passes once. Raises UsageError unless both numbers are above 0.

    >>> from gradbelt.clip.rule import accepted, measured
    >>> AdaGC().decide(measured(3.0, 4.0), History())
    Scale(coefficient=0.2)
    >>> AdaGC(2.0).decide(measured(3.0, 4.0), History(accepted=100, notes={"p0": (2.0,), "p1": (1.0,)}))
    ScaleEach(coefficients=(1.0, 0.5))
    """

    times: float = 1.05
    start: float = 1.0
    name: ClassVar[str] = "adagc"
    SOURCE: ClassVar[str] = (
        "Wang et al.: AdaGC: Improving training stability for LLM pretraining, 2025, arXiv:2502.11034"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", threshold(self.times, "AdaGC's times"))
        object.__setattr__(self, "start", threshold(self.start, "AdaGC's start"))

    def decide(self, seen: Measurement, history: History) -> Action:
        if not seen.finite:
            return refuse(seen)
        if history.accepted < START:
            return down_to(self.start, seen)
        notes = history.notes
        averages = np.array([notes[name][0] if name in notes else np.inf for name in seen.names])
        return each_down_to(self.times * averages, seen)

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """The average of each gradient's clipped norms, under its parameter's name."""
        left = as_kept(seen.norm)
        match action:
            case Scale(coefficient):
                left = left * coefficient
            case ScaleEach(coefficients):
                left = left * np.array(coefficients)
            case _:
                pass
        notes, warming = history.notes, history.accepted < START
        kept: dict[str, tuple[float, ...]] = {}
        for name, norm in zip(seen.names, left.tolist(), strict=True):
            if norm > 0.0:
                average = notes[name][0] if name in notes else norm
                kept[name] = (min(average, norm) if warming else DECAY * average + (1.0 - DECAY) * norm,)
        return kept


_PAST = History(accepted=100, levels=accepted(5.0).levels, notes={"p0": (3.0,), "p1": (4.0,)})
CALM = (
    Example(rule=AdaGC(), seen=measured(0.6, 0.8)),
    Example(rule=AdaGC(), seen=measured(3.1, 4.1), history=_PAST),
)
SICK = (
    Example(rule=AdaGC(), seen=measured(3.0, 4.0)),
    Example(rule=AdaGC(), seen=measured(3.0, 8.0), history=_PAST),
)
