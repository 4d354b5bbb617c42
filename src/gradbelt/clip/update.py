"""Hold back the update of each parameter, not its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import Action, ClipUpdate, History, Keep, Measurement
from gradbelt.clip.rule import Example, measured, refuse, threshold


@dataclass(frozen=True)
class Update:
    """Where a gradient outgrows what Adam remembers of it, that parameter's learning rate is lowered for the step.

    RMS = sqrt(mean(g^2 / max(v, eps^2))) over the elements of a parameter, with v its second moment after this step's
    gradient, corrected for its bias; the learning rate is divided by max(1, RMS / limit). With v in step with g the RMS
    is near 1. It is above when g has jumped and v, which forgets slowly, divides by what was usual: the update is then
    that much too large. It can't pass sqrt(1 / (1 - beta2)): 31 at 0.999, 4.5 at 0.95.

    Use it with Adam, AdamW, NAdam, RAdam and SparseAdam, in all their variants (fused, foreach, capturable, amsgrad),
    where the loss spikes a few steps after the gradient of an embedding or a patch layer grows; a lower beta2 is the
    other cure, and takes nothing from such steps. It is StableAdamW without a new optimizer. The gradient and the
    moments stay as they are, so it holds back no gradient that is large for long, and does nothing in the first step;
    it is the wrong rule for rows that are seldom seen, which look like a jump each time. Other optimizers raise
    UsageError when they are fastened: SGD has no second moment, RMSprop corrects none, and Adafactor clips its updates
    itself (`d`).

    In a chain it goes by what all the other rules have left, wherever it stands. A step of an optimizer that torch has
    compiled as a whole sees groups of parameters that come and go, and compiles anew. Gradients and second moments are
    read once more, with one more wait for the device. Raises UsageError unless limit is above 0.

    >>> from gradbelt.clip.rule import measured
    >>> Update(1.0).decide(measured(3.0, 4.0), History())
    ClipUpdate(limit=1.0)
    """

    limit: float = 1.0
    name: ClassVar[str] = "update"
    SOURCE: ClassVar[str] = (
        "Wortsman et al.: Stable and low-precision training for large-scale vision-language models, 2023, "
        "arXiv:2304.13013 (StableAdamW); Shazeer, Stern: Adafactor, 2018, arXiv:1804.04235"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", threshold(self.limit, "Update's limit"))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history
        if not seen.finite:
            return refuse(seen)
        # a gradient's norm says nothing of its second moment, but one of zero is no larger than any
        return ClipUpdate(self.limit) if seen.total > 0.0 and self.limit < math.inf else Keep()


CALM = (Example(rule=Update(), seen=measured(0.0, 0.0)), Example(rule=Update(math.inf), seen=measured(1e30)))
SICK = (Example(rule=Update(), seen=measured(3.0, 4.0)), Example(rule=Update(0.5), seen=measured(1e-9)))
