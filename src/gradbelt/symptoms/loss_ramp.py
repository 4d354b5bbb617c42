"""The loss keeps rising: not yet a divergence, on the way to one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import Told, tell
from gradbelt._types import KNOWN, Finding, History, Level, Signals
from gradbelt.symptoms.given_back import given_back


@dataclass(frozen=True, slots=True)
class LossRamp:
    """Before `divergence` is certain, in two speeds, of the logarithm of the loss:

    - within tens of steps: a CUSUM of what each step does not foretell of the next stands above `limit`, and the loss
      at `ramp` times where the climb began;
    - over the run: its slow level stands at `drift` times the lowest it has been, an anchor that does not adapt, and
      the gradient norm's has left its own lowest by as much.

    Only where half of what had been learnt, counted as a ratio, has been given back, and not in the first steps after
    a leap of the learning rate: a warm restart loses ground and makes it good. A warning. Not seen: a loss that is not
    positive. Source as for `grad_explosion`'s ramp.

    False alarms: a curriculum whose next stage is that much harder.
    """

    limit: float = 8.0
    ramp: float = 1.5
    drift: float = 10.0
    kinds: tuple[str, ...] = ("divergence",)

    CALM: ClassVar = (
        [(2.0 + 0.3 * (i % 4), 1.0, 1.0) for i in range(300)],
        [(2.0 / (1 + i % 60), 1.0, 1.0) for i in range(300)],
        [(-1.0 - 0.1 * i, 1.0, 1.0) for i in range(300)],
        [(2.0 * 0.98**i if i < 200 else 0.04, 1.0, 1.0) for i in range(260)] + [(0.09, 1.0, 1.0)] * 30,
    )
    SICK: ClassVar = (
        [(1.0 + 0.1 * (i % 3), 1.0, 1.0) for i in range(100)]
        + [((1.0 + 0.1 * (i % 3)) * 1.1**i, 1.0, 1.0) for i in range(30)],
        [((1.0 + 0.1 * (i % 5)) * math.exp(0.003 * i), math.exp(0.003 * i), 1.0) for i in range(1200)],
    )

    def look(self, signals: Signals, history: History) -> Finding | None:
        loss, norm = signals.course.trend, signals.trend
        if not signals.losses or history.steady < KNOWN or not given_back(signals.course):
            return None
        if loss.climb > self.limit and loss.quick - loss.base > math.log(self.ramp):
            said = tell(
                "step {step}: the loss has been rising from here, {ratio} times by step {now}",
                step=loss.since, ratio=f"{math.exp(min(loss.quick - loss.base, 700.0)):.3g}", now=signals.step,
            )  # fmt: skip
            return self._finding(signals, said, since=loss.since, limit=self.ramp * math.exp(loss.base))
        far = math.log(self.drift)
        if loss.level - loss.low > far and norm.level - norm.low > far:
            said = tell(
                "step {step}: the loss has drifted to {ratio} times its lowest level, and the gradient norm up with it",
                step=signals.step, ratio=f"{math.exp(min(loss.level - loss.low, 700.0)):.3g}",
            )  # fmt: skip
            return self._finding(signals, said, since=signals.step, limit=self.drift * math.exp(loss.low))
        return None

    def _finding(self, signals: Signals, said: Told, *, since: int, limit: float) -> Finding:
        return Finding(
            kind="divergence", step=since, level=Level.WARN, where=signals.course.largest,
            value=signals.course.recent[-1].loss, limit=limit, message=said, shape="ramp",
        )  # fmt: skip
