"""Each parameter's gradient against its own recent norms."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, Floats, History, Measurement, Scale, ScaleEach
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
        averages = _averages(seen.names, history.notes)
        return each_down_to(np.where(averages > 0.0, self.times * averages, np.inf), seen)

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """The average of each gradient's clipped norms, 0 before the first: one note, named by all parameters."""
        left = as_kept(seen.norm)
        match action:
            case Scale(coefficient):
                left = left * coefficient
            case ScaleEach(coefficients):
                left = left * np.array(coefficients)
            case _:
                pass
        averages, notes = _averages(seen.names, history.notes), history.notes
        warming = history.accepted < START
        moved = np.minimum(averages, left) if warming else DECAY * averages + (1.0 - DECAY) * left
        moved = np.where(left > 0.0, np.where(averages > 0.0, moved, left), averages)
        name = _joined(seen.names)
        if notes.keys() <= {name}:
            return {name: tuple(moved.tolist())}
        # a parameter that has no gradient for a while keeps its average
        known = {**_by_name(notes), **dict(zip(seen.names, moved.tolist(), strict=True))}
        return {**dict.fromkeys(notes, ()), _joined(tuple(known)): tuple(known.values())}


def _averages(names: tuple[str, ...], notes: Mapping[str, tuple[float, ...]]) -> Floats:
    """What is noted for these parameters; 0 for one that nothing is noted for."""
    if (kept := notes.get(_joined(names))) is not None:
        return np.array(kept)
    known = _by_name(notes)
    return np.array([known.get(name, 0.0) for name in names])


def _by_name(notes: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """Each parameter's average. A dictionary entry for each would cost more at every step than all the arithmetic."""
    pairs = (zip(joined.split("\n"), kept, strict=True) for joined, kept in notes.items())
    return {name: average for pair in pairs for name, average in pair}


@functools.lru_cache(maxsize=64)
def _joined(names: tuple[str, ...]) -> str:
    return "\n".join(names)


_PAST = History(accepted=100, levels=accepted(5.0).levels, notes={"p0": (3.0,), "p1": (4.0,)})
CALM = (
    Example(rule=AdaGC(), seen=measured(0.6, 0.8)),
    Example(rule=AdaGC(), seen=measured(3.1, 4.1), history=_PAST),
)
SICK = (
    Example(rule=AdaGC(), seen=measured(3.0, 4.0)),
    Example(rule=AdaGC(), seen=measured(3.0, 8.0), history=_PAST),
)
