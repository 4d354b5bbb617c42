"""The weights of one parameter grow and grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import MARKS, SPAN, Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.rows import recorded


def _growing(*rates: float, much: float = 1.0) -> list[StepRecord]:
    """Steps at which the norm of the second of two weights is multiplied by these over each SPAN steps."""
    norms = np.concatenate([np.linspace(0.0, np.log(rate), SPAN, endpoint=False) for rate in rates])
    starts = np.repeat(np.cumsum([0.0, *np.log(rates)[:-1]]), SPAN)
    weights = [np.array([5.0, much * np.exp(w)]) for w in [*(norms + starts), np.log(rates).sum()]]
    more = [recorded(i, 1.0, 1.0, 1.0, weight=weight.astype(np.float32)) for i, weight in enumerate(weights)]
    return [*more, recorded(len(more), 1.0, 1.0, 1.0)]


@dataclass(frozen=True, slots=True)
class WeightGrowth:
    """The norm of one parameter's weights was multiplied by `rate` or more over each of the last three times SPAN
    steps, is not slowing down, and holds `share` of the norm of all.

    Weights grow in healthy runs, too: from zero in a line, behind batch norm by the root of the steps. Both slow down,
    seen as a ratio; what grows by the same ratio again and again has nothing that holds it: a learning rate just too
    high, an objective without a bound, a decay with the wrong sign. What grows within a step is `grad_explosion`'s
    other face. A warning, at most one in SPAN steps. Source: ours; why weights behind a norm only ever grow, and ever
    slower: Arora, Li and Lyu, 2019.

    False alarms: a part of a model that starts at nearly nothing and is rightly to become all of it.
    """

    rate: float = 1.5
    steady: float = 0.8
    share: float = 0.1
    kinds: tuple[str, ...] = ("grad_explosion",)

    CALM: ClassVar = (
        _growing(1.2, 1.2, 1.2, 1.2),
        _growing(8.0, 4.0, 2.0, 1.5),
        _growing(2.0, 2.0, 2.0, much=1e-4),
        _growing(3.0, 3.0),
    )
    SICK: ClassVar = (_growing(1.6, 1.6, 1.6), _growing(1.6, 2.5, 4.0))

    def look(self, signals: Signals, history: History) -> Finding | None:
        layers = history.layers
        if layers is None or len(layers.weights) < MARKS or layers.weights[-1][0] != history.steps - 1:
            return None
        norms = np.array([norms for _, norms in layers.weights])
        norms[norms == 0] = np.nan  # from nothing there is no ratio
        rates = np.log(norms[1:] / norms[:-1])
        part = norms[-1] / np.sqrt(np.nansum(np.square(norms[-1])))
        # nan, of what was zero, is not above anything
        found = (rates.min(axis=0) >= np.log(self.rate)) & (rates[-1] >= self.steady * rates[0]) & (part >= self.share)
        if not found.any():
            return None
        at = int(np.flatnonzero(found)[part[found].argmax()])
        grown, where = float(norms[-1, at] / norms[0, at]), layers.names[at]
        return Finding(
            kind="grad_explosion", step=signals.step, level=Level.WARN, where=where, value=float(norms[-1, at]),
            limit=float(norms[0, at] * self.rate ** (MARKS - 1)), shape="growth",
            message=tell(
                "step {step}: the weights of {where} have grown {ratio} times within {steps} steps and don't slow down",
                step=signals.step, where=where, ratio=f"{grown:.3g}", steps=SPAN * (MARKS - 1),
            ),
        )  # fmt: skip
