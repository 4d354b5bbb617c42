"""What goes into a softmax grows and grows, and nothing is learnt by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Activation, Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.shown import alike, at_first, has_learnt, lies_still, shown

KINDS = ("attention", "softmax", "logits")


def _run(
    kind: str, peak: float, growth: float, entropy: float, *, losses: tuple[float, float] = (2.3, 2.3)
) -> list[StepRecord]:
    """Sixty steps with a largest logit that grows, an entropy that falls, and a loss that goes from one to another."""
    return [
        shown(i, losses[0] + (losses[1] - losses[0]) * i / 60, kind, peak=peak * growth**i, entropy=0.9 * entropy**i)
        for i in range(60)
    ]


@dataclass(frozen=True, slots=True)
class LogitGrowth:
    """The largest logit of an attention, of another softmax or of a cross-entropy is above `limit`, has doubled over
    the last ten looks and risen at each of the last three, while the loss lies still or rises.

    Of a cross-entropy little must have been learnt as well, as `stalled` counts it: where the loss has come down to 0.4
    of where it began, its logits are earned, and a net that knows its answers makes them ever larger. Of attention the
    entropy must have collapsed: to below 0.3 of what its keys allow, and to less than half of what it was at first;
    above `certain` that is enough, whatever the loss does.

    A logit has a natural unit: a lead of 50 is a probability of e^-50 for all others, through which no gradient comes
    back. Gradients don't show it, they fall; the run goes on, and learns little. In healthy training logits of
    attention reach 60 and entropy falls, too (induction, retrieval), but while the loss falls, or by and by. A warning,
    dated to the look at which it is certain. Source: Zhai et al., 2023 (entropy collapse); Wortsman et al., 2023
    (logits as a lead of divergence); Kimi K2 acts on a logit from 100 on.

    False alarms: a head that becomes sharp within a few steps of a plateau. Not seen: logits of a script that writes
    its softmax as an exponential over a sum; those of a loss that has been learnt on and has not left again.
    """

    limit: float = 50.0
    certain: float = 500.0
    growth: float = 2.0
    entropy: float = 0.3
    kinds: tuple[str, ...] = ("logit_growth",)

    UNITS: ClassVar = {"activations": "a logit is the logarithm of odds: a lead of 50 leaves e^-50 to all others"}
    CALM: ClassVar = (
        _run("attention", 2.0, 1.09, 0.94, losses=(2.3, 0.3)),
        _run("attention", 2.0, 1.09, 1.0),
        _run("attention", 60.0, 1.0, 0.94),
        _run("attention", 40.0, 1.01, 0.94),
        _run("logits", 2.0, 1.05, 1.0),
        _run("logits", 2.0, 1.09, 0.94, losses=(2.3, 0.1)),
        [_run("logits", 2.0, 1.09, 0.94)[0], *_run("logits", 2.0, 1.09, 0.94, losses=(0.3, 0.3))[1:]],
    )
    SICK: ClassVar = (
        _run("attention", 2.0, 1.09, 0.94),
        [_run("attention", 2.0, 1.09, 0.94)[0], *_run("attention", 2.0, 1.09, 0.94, losses=(0.3, 0.3))[1:]],
        _run("logits", 2.0, 1.09, 1.0, losses=(2.3, 3.0)),
    )

    def look(self, signals: Signals, history: History) -> Finding | None:
        if not signals.activations:
            return None
        grown = list(self._grown(signals, history))
        if not grown:
            return None
        worst, before = max(grown, key=lambda each: each[0].peak)
        if worst.kind == "logits":
            said = tell(
                "step {step}: the logits of the loss reach {peak}, from {before} lately, and it does not fall",
                step=signals.step,
                peak=f"{worst.peak:.3g}",
                before=f"{before:.3g}",
            )
        else:
            said = tell(
                "step {step}: the logits of the attention in {where} reach {peak}, from {before} lately; of its "
                "entropy {entropy} is left",
                step=signals.step,
                where=worst.name,
                peak=f"{worst.peak:.3g}",
                before=f"{before:.3g}",
                entropy=f"{worst.entropy:.0%}",
            )
        return Finding(
            kind="logit_growth", step=signals.step, level=Level.WARN, where=worst.name, value=worst.peak,
            limit=self.limit, message=said,
        )  # fmt: skip

    def _grown(self, signals: Signals, history: History) -> Iterator[tuple[Activation, float]]:
        """Each softmax whose logits run off, with the largest that was remembered first."""
        still, unearned = lies_still(signals.course), not has_learnt(signals.course)
        for one in signals.activations:
            if one.kind not in KINDS or not one.peak > self.limit:
                continue
            past = alike(history.lately, one)
            peaks = [each.peak for each in past]
            if len(peaks) < 3 or not (one.peak > peaks[-1] > peaks[-2] and one.peak > self.growth * min(peaks)):
                continue
            collapsed = max(one.entropy, past[-1].entropy) < min(self.entropy, 0.5 * at_first(history, one, "entropy"))
            if still and unearned if one.kind == "logits" else collapsed and (still or one.peak > self.certain):
                yield one, peaks[0]
