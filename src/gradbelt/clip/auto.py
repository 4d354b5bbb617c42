"""A threshold found from the run itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.rule import Example, accepted, down_to, measured, refuse

LAST = 100  # accepted steps whose clipped norms the threshold is taken from; of a young run the later half
LEAST = 10  # but no fewer than these
JUMPS = 50  # accepted steps whose norms before clipping tell how far they jump
FEW = 6  # jumps below which a run counts as jumpy: nothing is known of it yet
USUAL = 0.8  # quantile of the jumps that says how far norms jump
STEADY, JUMPY = math.log(2.2), math.log(5.0)  # four of five norms within this factor of the one before
WIDE = (0.5, 2.0)  # quantile of the clipped norms and its multiple, where norms are steady
TIGHT = (0.1, 1.05)  # the same where they jump, the quantile of AutoClip
FIRST = 1.0  # the customary threshold, for the first step
FIRST_STEP = 0.1  # share of the weights' norm up to which the first step's lr x gradient is believed


@dataclass(frozen=True)
class Auto:
    """The total L2 norm is at most a multiple of a quantile of the accepted norms, as they were after clipping.

    Use it when you don't know the scale of your gradients. How tight it is depends on how far the norm, before
    clipping, jumps from one step to the next. Where four jumps of five stay within a factor of 2.2, the threshold is
    twice the median: only a spike is clipped. Where they reach 5, the gradient is heavy-tailed, and it is 1.05 times
    the 10 % quantile: most steps are scaled to what the smallest of them are, so that a few bad examples can't carry
    the weights away. In between both numbers glide.

    Two things make it safe. It learns from *clipped* norms, so it doubles at most once while half of its window fills
    with clipped ones (the last 100 steps; of a young run the later half): an explosion is faster than that, a healthy
    rise is not. And it starts tight: a run is jumpy until six jumps have been seen, and the quantile of few norms is
    the smallest of them.

    The first step has no past: it is held to the customary 1.0, but learned from as it came, up to the norm at which
    lr x norm is a tenth of the weights' norm.

    Limits: a norm that rightly rises a thousandfold within a few steps (the gate of a zero-initialised branch opening)
    is clipped hard until the threshold has caught up; adaptive optimizers don't mind, plain SGD loses time. With Adam a
    fixed threshold far below every norm can do better still: it is a larger learning rate under another name, and Auto
    leaves that choice to you. An explosion that is there from the first step on, within the first step's bound, is
    taken for the run's scale.

    It notes ln(norm) before clipping of the last 51 accepted steps, and what the first one counts as.

    >>> from gradbelt.clip.rule import accepted, measured
    >>> rule, history = Auto(), accepted(*[1.0] * 100)
    >>> rule.decide(measured(1.04), history)
    Keep()
    >>> steady = History(levels=history.levels, notes={"raw": (0.0,) * 51})
    >>> rule.decide(measured(1.9), steady), rule.decide(measured(4.0), steady)
    (Keep(), Scale(coefficient=0.5))
    """

    name: ClassVar[str] = "auto"
    SOURCE: ClassVar[str] = (
        "gradbelt's own: a quantile of the norms as in Seetharaman et al.: AutoClip, MLSP 2020, arXiv:2007.14469, over "
        "clipped norms as in Wang et al.: AdaGC, 2025, arXiv:2502.11034"
    )

    def decide(self, seen: Measurement, history: History) -> Action:
        if not seen.finite:
            return refuse(seen)
        return down_to(self.limit_ahead(history), seen)

    def limit_ahead(self, history: History) -> float:
        """The threshold on the total norm at the step that comes next."""
        levels = list(history.levels[-min(max(history.accepted // 2, LEAST), LAST) :])
        if levels and "first" in history.notes and history.accepted == len(levels):
            levels[0] = history.notes["first"][0]
        levels = [level for level in levels if math.isfinite(level)]  # ln(0) is no scale
        if not levels:
            return FIRST
        tight = (_jump(history.notes.get("raw", ())) - STEADY) / (JUMPY - STEADY)
        tight = min(max(tight, 0.0), 1.0)
        quantile = WIDE[0] + tight * (TIGHT[0] - WIDE[0])
        times = WIDE[1] * math.pow(TIGHT[1] / WIDE[1], tight)
        return times * math.exp(_quantile(levels, quantile))

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """The norms before clipping: how far they jump is what clipping hides."""
        del action
        if not seen.total > 0.0:
            return {}
        level = math.log(seen.total)
        noted = {"raw": (*history.notes.get("raw", ())[-JUMPS:], level)}
        return noted if history.accepted else {**noted, "first": (min(level, _believed(seen)),)}


def _jump(raw: Sequence[float]) -> float:
    """How far ln(norm) usually moves from one step to the next; inf while too little is known."""
    jumps = [abs(after - before) for before, after in itertools.pairwise(raw)]
    return _quantile(jumps, USUAL) if len(jumps) >= FEW else math.inf


def _quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the others lie below, rounded down to one that is there."""
    return sorted(values)[int(share * (len(values) - 1))]


def _believed(seen: Measurement) -> float:
    """The largest ln(norm) of a first step that is taken for the run's scale; inf where its size can't be told."""
    weight = seen.weight_total
    if weight is None or not weight > 0.0 or not seen.lr > 0.0:
        return math.inf
    return math.log(max(FIRST_STEP * weight / seen.lr, FIRST))


_STEADY = History(levels=accepted(*[4.0, 5.0, 6.0] * 20).levels, notes={"raw": accepted(*[4.0, 5.0, 6.0] * 17).levels})
CALM = (
    Example(rule=Auto(), seen=measured(0.6, 0.8)),
    Example(rule=Auto(), seen=measured(6.0, 7.0), history=_STEADY),
    Example(rule=Auto(), seen=measured(0.0), history=accepted(*[1.0] * 20)),
)
SICK = (
    Example(rule=Auto(), seen=measured(1e9, weight=20.0, lr=0.1)),
    Example(rule=Auto(), seen=measured(5.0), history=accepted(*[4.0, 5.0, 6.0] * 20)),
    Example(rule=Auto(), seen=measured(80.0), history=_STEADY),
)
