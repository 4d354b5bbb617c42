"""Clip the norm of each parameter's gradient by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.order import groups_down_to, order, singles
from gradbelt.clip.rule import Example, each_down_to, measured, refuse, threshold


@dataclass(frozen=True)
class Each:
    """The p-norm of each parameter's gradient is at most `max_norm`; those above are scaled, the others stay.

    Use it where one layer's spikes should not slow all others: an embedding, a gate, a head that starts late. It turns
    the gradient as a whole, and of P parameters that all reach the limit the total is sqrt(P) x max_norm, so the right
    value is smaller than Norm's. It is the wrong rule where layers differ in scale by design, for one limit can't fit
    them all: AdaGC finds one for each. Modules share a limit in `Modules`, groups by name in `Groups`.

    For p other than 2 the gradients are read once more (of p above 2: those whose L2 norm is above the limit). A norm
    that a float32 can't tell from max_norm counts as within it. Raises UsageError unless both numbers are above 0.

    >>> from gradbelt.clip.rule import measured
    >>> Each(1.0).decide(measured(4.0, 0.5), History())
    ScaleEach(coefficients=(0.25, 1.0))
    >>> Each(1.0, p=float("inf")).decide(measured(4.0, 0.5), History())
    ClipGroups(bounds=(Bound(limit=1.0, p=inf, where=(0,)),), others=())
    """

    max_norm: float
    p: float = 2.0
    name: ClassVar[str] = "each"
    SOURCE: ClassVar[str] = "Keras' clipnorm and torch-clip's layer mode; optax.clip_by_block_rms is its RMS twin"

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", threshold(self.max_norm, "Each's max_norm"))
        object.__setattr__(self, "p", order(self.p, "Each's p"))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history
        if not seen.finite:
            return refuse(seen)
        if self.p == 2.0:
            return each_down_to(np.full(len(seen.norm), self.max_norm), seen)
        return groups_down_to(self.max_norm, self.p, singles(len(seen.norm)), seen)


CALM = (
    Example(rule=Each(1.0), seen=measured(1.0, 1.0, 1.0)),
    Example(rule=Each(1.0), seen=measured(0.0)),
    Example(rule=Each(1.0, p=float("inf")), seen=measured(0.9, 0.9)),
)
SICK = (
    Example(rule=Each(1.0), seen=measured(4.0, 0.5)),
    Example(rule=Each(1.0), seen=measured(1e30)),
    Example(rule=Each(1.0, p=1.0), seen=measured(4.0, 0.5)),
    Example(rule=Each(1.0, p=float("inf")), seen=measured(4.0, 0.5)),
)
