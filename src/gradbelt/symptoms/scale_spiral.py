"""A loss scaler lowers its scale again and again: gradients overflow at every scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import KNOWN, Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.rows import recorded


def _scaled(*scales: float) -> list[StepRecord]:
    return [recorded(i, 1.0, 1.0, scale=scale) for i, scale in enumerate(scales)]


@dataclass(frozen=True, slots=True)
class ScaleSpiral:
    """The scale of the loss scaler fell below 1, or by `fall` within the last LATELY accepted steps.

    A scaler halves its scale at a step whose gradient overflows, and leaves that step out. It does so a few times in a
    row at the start, which comes before the first accepted step or among the first KNOWN, and once at the end of each
    interval of growth. Half of the last steps left out is none of these: gradients explode, or are nan, which no scale
    mends. Below 1 they overflow float16 although the loss is made smaller, and small gradients are lost. A warning. A
    script whose every step is left out has no steps to look at: `never_steps` says that, after STREAK of them, as an
    alarm. Source: `torch.amp.GradScaler`, factors 2 and 1/2.

    False alarms: a scaler given a backoff factor far below 1/2. Not seen: a scale that a script keeps at a floor.
    """

    fall: float = 2.0**8
    kinds: tuple[str, ...] = ("inf_grad",)

    UNITS: ClassVar = {"scale": "at 1 the loss is as it is: a scale below makes it smaller, and loses small gradients"}
    CALM: ClassVar = (
        _scaled(*[2.0**24 / 2**i for i in range(16)], *[2.0**9] * 30),
        _scaled(*([2.0**16] * 30 + [2.0**15] * 30) * 2),
        _scaled(*[2.0**16] * 60, *[2.0**12] * 30),
        _scaled(*[0.5] * 60),
    )
    SICK: ClassVar = (
        _scaled(*[2.0**16] * 60, *[2.0**16 / 2**i for i in range(12)]),
        _scaled(*[2.0**6] * 60, *[0.25] * 2),
    )

    def look(self, signals: Signals, history: History) -> Finding | None:
        scale, past = signals.scale, history.scales
        if scale is None or not past or history.accepted < KNOWN:
            return None
        most = max(past)
        if not (most >= self.fall * scale or (scale < 1.0 and scale < past[-1])):
            return None
        said = tell(
            "step {step}: the loss scaler has lowered its scale to {scale}, from {before} lately; gradients overflow "
            "again and again, or are nan",
            step=signals.step,
            scale=f"{scale:.3g}",
            before=f"{most:.3g}",
        )
        return Finding(
            kind="inf_grad", step=signals.step, level=Level.WARN, value=scale, limit=most / self.fall, message=said,
            shape="scale",
        )  # fmt: skip


def never_steps(step: int) -> Finding:
    """The finding for a scaler that has left out STREAK steps in a row."""
    said = tell("step {step}: the loss scaler leaves out step after step; gradients overflow at any scale", step=step)
    return Finding(kind="inf_grad", step=step, level=Level.ALARM, message=said)
