"""The gradient norm keeps rising while the loss does not fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from gradbelt._told import Told, tell
from gradbelt._types import RECENT, Finding, History, Level, Signals
from gradbelt.symptoms.given_back import given_back


@dataclass(frozen=True, slots=True)
class GradRamp:
    """Rises that come before a divergence, in three speeds, of the norm that backward left, before any clipping:

    - within a few steps: the last RECENT norms each above the one before, `dash` times in all, and the loss higher than
      at any of the last LOSSES steps and than where the run began. Needs no past;
    - within tens of steps: a CUSUM of what each step does not foretell of the next stands above `limit`, and the norm
      at `ramp` times where the climb began;
    - over the run: the slow level stands at `drift` times the lowest it has been, an anchor that does not adapt, while
      the loss's slow level has left its own lowest, too.

    Always only where the loss has given back half of what it had learnt, counted as a ratio: norms of healthy language
    models and of nets with batch norm rise two- to fivefold as their loss falls. A leap of the learning rate starts
    the trend over. A warning: what becomes of it shows in the loss. Source: AR(1)-whitened CUSUM, Page 1954; at
    `limit` 8 and a slack of one deviation a chance of 0.01 of a false alarm in 2000 steps up to an autocorrelation of
    0.97 and with Student-t4 tails.

    False alarms: an objective that is made harder on purpose, and returns that grow, where gradients grow with them.
    """

    dash: float = 6.0
    limit: float = 8.0
    ramp: float = 4.0
    drift: float = 10.0
    kinds: tuple[str, ...] = ("grad_explosion",)

    CALM: ClassVar = (
        [(1.0, 1.0 + 0.3 * (i % 4), 1.0) for i in range(300)],
        [(2.0 / (1 + i), 1.0 + 0.02 * i, 1.0) for i in range(300)],  # healthy: the norm rises, the loss falls
        [(1.0 + 0.1 * (i % 3), (3.0 if i % 50 < 25 else 1.0) * (1 + 0.2 * (i % 3)), 1.0) for i in range(300)],
        [(1e-6 * (100.0 if i == 150 else 1.0) if i > 50 else 1.0, 1.0, 1.0) for i in range(200)],
    )
    SICK: ClassVar = (
        [(2.0**i, 2.0**i, 1.0 + i) for i in range(8)],
        [(1.0 + 0.1 * (i % 3), 1.0 + 0.2 * (i % 4), 1.0) for i in range(100)]
        + [(1.0 + 0.1 * (i % 3) + 0.02 * i, (1.0 + 0.2 * (i % 4)) * 1.2**i, 1.0) for i in range(30)],
        [(1.0 + 0.002 * i, math.exp(0.004 * i) * (1 + 0.1 * (i % 5)), 1.0) for i in range(1200)],
    )

    def look(self, signals: Signals, history: History) -> Finding | None:
        if not math.isfinite(signals.total) or not given_back(signals.course):
            return None
        trend, loss = signals.trend, signals.course.trend
        if trend.climb > self.limit and trend.quick - trend.base > math.log(self.ramp):
            ratio = math.exp(min(trend.quick - trend.base, 700.0))
            said = tell(
                "step {step}: the gradient norm has been rising from here, {ratio} times by step {now}, and the loss "
                "does not fall",
                step=trend.since, ratio=f"{ratio:.3g}", now=signals.step,
            )  # fmt: skip
            return self._finding(signals, said, since=trend.since, limit=self.ramp * math.exp(trend.base))
        if self._dashes(signals):
            since = signals.course.recent[0].step
            said = tell(
                "step {step}: gradient norm and loss rise from step to step, {ratio} and {loss} times by step {now}",
                step=since, ratio=f"{math.exp(trend.tail[-1] - trend.tail[0]):.3g}", now=signals.step,
                loss=f"{signals.course.recent[-1].loss / signals.course.recent[0].loss:.3g}",
            )  # fmt: skip
            return self._finding(signals, said, since=since, limit=self.dash * math.exp(trend.tail[0]))
        if trend.level - trend.low > math.log(self.drift) and loss.level - loss.low > math.log(RISEN):
            said = tell(
                "step {step}: the gradient norm has drifted to {ratio} times its lowest level, and the loss up with it",
                step=signals.step, ratio=f"{math.exp(min(trend.level - trend.low, 700.0)):.3g}",
            )  # fmt: skip
            return self._finding(signals, said, since=signals.step, limit=self.drift * math.exp(trend.low))
        return None

    def _dashes(self, signals: Signals) -> bool:
        norms, losses = signals.trend.tail, [point.loss for point in signals.course.recent]
        if len(norms) < RECENT or len(losses) < RECENT or not 0 < losses[0] < math.inf:
            return False
        rises = all(a < b for a, b in pairwise(norms))
        return (
            rises
            and norms[-1] - norms[0] > math.log(self.dash)
            and RISEN * losses[0] < losses[-1] < math.inf
            and losses[-1] > (signals.course.start or 0.0)
            and losses[-1] >= max(signals.course.window)
        )

    def _finding(self, signals: Signals, said: Told, *, since: int, limit: float) -> Finding:
        return Finding(
            kind="grad_explosion", step=since, level=Level.WARN, where=signals.worst[0] if signals.worst else "?",
            value=signals.total, limit=limit, message=said, shape="ramp",
        )  # fmt: skip


RISEN = 1.5  # times: a loss that stands so far above has risen
