"""What the modules put out grows from step to step, and nothing is learnt by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.shown import alike, at_first, lies_still, shown


def _run(size: float, growth: float, *, steps: int = 100, losses: tuple[float, float] = (2.3, 2.3)) -> list[StepRecord]:
    """Steps with activations that grow by a factor a step, from one loss to another."""
    start, end = losses
    return [shown(i, start + (end - start) * i / steps, "", rms=size * growth**i) for i in range(steps)]


@dataclass(frozen=True, slots=True)
class ActivationGrowth:
    """The RMS of what a module puts out is `total` times what it was at first and above `least`, has grown tenfold over
    the last ten looks and at each of the last three, while the loss lies still or rises.

    The forward half of a run that is leaving: weights that grow by a few per cent a step show here by the product of
    all layers, before the loss has said so. In healthy training activations grow as well (the stream of a residual
    network by ten and more, single features by a thousand), slowly, or while the loss falls; from a small beginning
    they may grow tenfold on a plateau, which is why they must be large, too. A warning, dated to the look at which it
    is certain. The module told is the first in order of the forward pass. Source: ours; that what layers do to a size
    multiplies is He et al., 2015.

    False alarms: targets in large units, on a plateau.
    """

    total: float = 30.0
    growth: float = 10.0
    least: float = 100.0
    kinds: tuple[str, ...] = ("divergence",)

    UNITS: ClassVar = {"activations": "from next to nothing they may rightly grow tenfold, and stay small"}
    CALM: ClassVar = (
        _run(1.0, 1.07, losses=(2.3, 0.3)),
        _run(10.0, 1.02, steps=200),
        _run(1e-6, 1.15),
        _run(1000.0, 1.0),
    )
    SICK: ClassVar = (_run(1.0, 1.1), _run(1.0, 1.1, losses=(2.3, 9.0)))

    def look(self, signals: Signals, history: History) -> Finding | None:
        if not signals.activations or not lies_still(signals.course):
            return None
        for one in signals.activations:
            if one.kind in ("attention", "softmax", "logits") or not one.rms > self.least:
                continue
            sizes = [each.rms for each in alike(history.lately, one)]
            first = at_first(history, one, "rms")
            rising = len(sizes) >= 3 and one.rms > sizes[-1] > sizes[-2] and one.rms > self.growth * min(sizes)
            if not rising or not one.rms > self.total * first:
                continue
            said = tell(
                "step {step}: what {where} puts out grows from step to step: its RMS is {value}, from {first} at "
                "first, and the loss does not fall",
                step=signals.step,
                where=one.name,
                value=f"{one.rms:.3g}",
                first=f"{first:.3g}",
            )
            return Finding(
                kind="divergence", step=signals.step, level=Level.WARN, where=one.name, value=one.rms,
                limit=self.total * first, message=said, shape="activations",
            )  # fmt: skip
        return None
