"""Updates are a large share of the weights they change, again and again, and nothing is learnt by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import LOOKS, Finding, History, Level, Signals, StepRecord
from gradbelt.symptoms.rows import recorded
from gradbelt.symptoms.shown import lies_still


def _run(*shares: float, losses: tuple[float, float] = (2.3, 2.3)) -> list[StepRecord]:
    """Sixty steps from one loss to another; every tenth update is seen, and is one of these shares of the weights."""
    rows = []
    for i in range(60):
        share = shares[i // 10 % len(shares)]
        seen = {"moved": np.array([share], np.float32)} if i % 10 == 1 else {}
        rows.append(recorded(i, losses[0] + (losses[1] - losses[0]) * i / 60, 1.0, **seen))
    return rows


@dataclass(frozen=True, slots=True)
class UpdateRatio:
    """Half of the weight matrices, or more, were changed by more than `limit` of themselves at each of the last three
    looks, while the loss lies still or rises.

    An update of a thousandth of the weights is usual; at a tenth the learning rate is high, at a third each step throws
    away what the ones before have learnt, whatever the gradient's norm, which neither Adam nor a clip lets show. Small
    weights grow into such updates at the start of many healthy trainings, and then learn. To be watched, for a large
    rate at the end of a training that has converged does no harm. Source: the rule of thumb of 1e-3 is Karpathy's
    (CS231n, 2015); the limit is a share at which directions are lost.

    False alarms: weights that are kept tiny on purpose. Not seen: what happens between the looks, at every fiftieth
    step; weights that are sharded, or stepped without the host's waiting.
    """

    limit: float = 0.3
    kinds: tuple[str, ...] = ("divergence",)

    CALM: ClassVar = (_run(0.01), _run(0.5, losses=(2.3, 0.3)), _run(0.9, 0.01), _run(0.0))
    SICK: ClassVar = (_run(0.5), _run(0.4, losses=(2.3, 4.0)))

    def look(self, signals: Signals, history: History) -> Finding | None:
        if signals.moved is None:
            return None
        seen = (*history.moved, signals.moved)[-LOOKS:]
        if len(seen) < LOOKS or not min(seen) > self.limit or not lies_still(signals.course):
            return None
        return Finding(
            kind="divergence", step=signals.step, level=Level.WATCH, value=min(seen), limit=self.limit, shape="updates",
            message=tell(
                "step {step}: each update changes half of the weight matrices by {share} of themselves or more, and "
                "the loss does not fall: the learning rate is high",
                step=signals.step, share=f"{min(seen):.0%}",
            ),
        )  # fmt: skip
