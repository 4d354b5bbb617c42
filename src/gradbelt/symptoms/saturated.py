"""Units that lie where their function is flat, so that nothing is learnt through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, Level, RunRecord
from gradbelt.symptoms.shown import looks, shown, since_when
from gradbelt.symptoms.stalled import flat_at

KINDS = ("tanh", "sigmoid", "softmax", "attention")


@dataclass(frozen=True, slots=True)
class Saturated:
    """At least `share` of what a tanh, sigmoid or softmax puts out lies where its slope is below 2 % of its largest, at
    every look of the last half of the run, while the loss lies flat, as `stalled` counts it.

    By the slope: |tanh| above 0.99, a sigmoid within 0.005 of 0 or 1, a softmax that gives one choice 99 %. What the
    outermost module answers is left out: a classifier that is sure of itself is saturated, and so is a picture in black
    and white. Gates and attention heads of healthy runs saturate in part, and those runs learn: it takes both, and the
    whole place. A warning, in hindsight, dated to the look from which it stays so. Source: Glorot and Bengio, 2010;
    |tanh| above 0.95 in over half of the units at one look, as others have it, flags healthy tanh nets.

    False alarms: a gate that was meant to close, in a run that lies flat for another reason.
    """

    share: float = 0.75
    kinds: tuple[str, ...] = ("saturated",)

    CALM: ClassVar = (
        [shown(i, 2.3 / (1 + i), "tanh", flat=0.95) for i in range(120)],
        [shown(i, 2.3, "tanh", flat=0.5) for i in range(120)],
        [shown(i, 2.3, "tanh", flat=0.95 if i < 101 else 0.1) for i in range(120)],
        [shown(i, 2.3, "", rms=1.0) for i in range(120)],
        [shown(i, 2.3, "attention", flat=0.95 if i > 90 else 0.1) for i in range(120)],
    )
    SICK: ClassVar = (
        [shown(i, 2.3, "tanh", flat=0.0 if i < 20 else 0.98) for i in range(120)],
        [shown(i, 2.3, "attention", flat=0.9) for i in range(120)],
    )

    def look_back(self, record: RunRecord) -> Finding | None:
        if flat_at(record) is None:
            return None
        rows = len(record.steps)
        found = [
            (since, place, seen)
            for place, seen in looks(record.steps, KINDS, "flat").items()
            if (since := since_when(seen, rows, self.share)) is not None
        ]
        if not found:
            return None
        since, place, seen = min(found, key=lambda each: each[0])
        step = record.steps[since].step
        said = tell(
            "step {step}: {share} of what the {kind} at {where} puts out is saturated from here on (places: {count}); "
            "little is learnt through it",
            step=step,
            share=f"{seen[-1][1]:.0%}",
            kind=place.kind,
            where=place.name,
            count=len(found),
        )
        return Finding(
            kind="saturated", step=step, level=Level.WARN, where=place.name, value=seen[-1][1], limit=self.share,
            message=said,
        )  # fmt: skip
