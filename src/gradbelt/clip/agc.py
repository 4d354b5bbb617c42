"""Each unit's gradient against the norm of its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, ClipUnits, History, Keep, Measurement
from gradbelt.clip.rule import MARGIN, Example, first_match, measured, refuse, threshold

HEADS = ("head.*", "*.head.*", "*lm_head.*", "classifier.*", "*.classifier.*", "fc.*", "module.fc.*")


@dataclass(frozen=True)
class AGC:
    """The gradient of each unit has at most `ratio` times the L2 norm of the unit's weights, or of `floor` if smaller.

    A unit is all that leads to one output: a row of a matrix, a filter of a convolution (of a transposed one: an
    input), a bias vector as a whole.

    Use it to train convolutional networks without normalisation, or with large batches: it bounds how much a step can
    change any filter, relative to its size, so it needs no scale of the loss. Its authors leave the last linear layer
    alone; `exclude` has patterns (fnmatch) for the names that is usually given. A parameter without a name, because
    `fasten` was given no model, is not excluded.

    Weights and gradients are read once more, unless all norms are within ratio x floor. Sparse gradients raise
    UsageError at the step: they have no rows. Raises UsageError unless both numbers are above 0.

    >>> from gradbelt.clip.rule import measured
    >>> AGC(0.01, exclude=("p1",)).decide(measured(3.0, 4.0), History())
    ClipUnits(ratio=0.01, floor=0.001, where=(True, False))
    >>> AGC(0.01).decide(measured(1e-6, 1e-6), History())
    Keep()
    """

    ratio: float = 0.01
    floor: float = 1e-3
    exclude: Sequence[str] = HEADS
    name: ClassVar[str] = "agc"
    SOURCE: ClassVar[str] = "Brock et al.: High-performance large-scale image recognition, 2021, arXiv:2102.06171"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", threshold(self.ratio, "AGC's ratio"))
        object.__setattr__(self, "floor", threshold(self.floor, "AGC's floor"))
        object.__setattr__(self, "exclude", (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history
        if not seen.finite:
            return refuse(seen)
        where = tuple(group < 0 for group in first_match(tuple(self.exclude), seen.names))
        # a unit's norm is at most its gradient's
        if float(np.max(seen.norm[np.array(where, dtype=bool)], initial=0.0)) * MARGIN <= self.ratio * self.floor:
            return Keep()
        return ClipUnits(self.ratio, self.floor, where)


CALM = (Example(rule=AGC(), seen=measured(1e-6, 1e-6)), Example(rule=AGC(exclude=("*",)), seen=measured(3.0)))
SICK = (Example(rule=AGC(), seen=measured(3.0, 4.0)), Example(rule=AGC(0.1, 1.0), seen=measured(1e30)))
