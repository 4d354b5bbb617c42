"""A gradient that ends at the largest number of its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals

LARGEST = {65504.0: "float16", (2.0 - 2.0**-7) * 2.0**127: "bfloat16", (2.0 - 2.0**-23) * 2.0**127: "float32"}
"""The largest number of a format, each exact in float32, which peaks are kept in."""


@dataclass(frozen=True, slots=True)
class GradWall:
    """The largest element of a gradient is, to the bit, the largest number that float16, bfloat16 or float32 has.

    Torch overflows to inf, so something wrote that number over an inf: `nan_to_num`, a cast that saturates, a clamp at
    the limits of the format. The gradient is finite, and means nothing. Only watched, and only at the steps at which
    peaks are read: the first ten, every tenth, and those after a jump. Source: IEEE 754's largest
    numbers, which `torch.nan_to_num` writes.

    False alarms: an element that is 65504 by itself. Not seen: a number written before a loss scale was divided out.
    """

    kinds: tuple[str, ...] = ("grad_wall",)

    UNITS: ClassVar = {"gradients": "the largest number of a format is one number"}
    CALM: ClassVar = ([(1.0, 65503.0, 1.0), (1.0, 65536.0, 1.0)], [(1.0, 448.0, 1.0)] * 30)
    SICK: ClassVar = ([(1.0, 65504.0, 1.0)], [(1.0, 1.0, 1.0)] * 3 + [(1.0, next(reversed(LARGEST)), 1.0)])

    def look(self, signals: Signals, history: History) -> Finding | None:
        if signals.peak is None or signals.peak.max(initial=0.0) < min(LARGEST):
            return None
        for name, peak in zip(signals.names, signals.peak.tolist(), strict=True):
            if peak in LARGEST:
                return Finding(
                    kind="grad_wall",
                    step=signals.step,
                    level=Level.WATCH,
                    where=name,
                    value=peak,
                    limit=peak,
                    message=tell(
                        "step {step}: the gradient of {where} ends at {peak}, the largest {format}: an overflow was "
                        "written over",
                        step=signals.step,
                        where=name,
                        peak=f"{peak:.6g}",
                        format=LARGEST[peak],
                    ),
                )
        return None
