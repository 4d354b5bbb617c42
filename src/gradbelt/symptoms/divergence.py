"""The loss has left for good."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradbelt._told import tell
from gradbelt._types import RECENT, WARM, Course, Finding, History, Level, Signals
from gradbelt.belt.derive import middle_and_spread


@dataclass(frozen=True, slots=True)
class Divergence:
    """The loss stands at `factor` times the best it has been, above where it started, and stays there.

    Dated to the step that crossed the line, confirmed RECENT steps later by the median of the losses since: a
    single bad batch, a warm restart and a GAN's swings come back in time. Only watched while it is in doubt: where
    the loss falls back from less than `factor` times the start, the last two the lowest; and where losses jump from
    step to step and it stands no higher than the line and `deviations` of that noise, for the best of many lies as
    far below the usual; and where they jump by as much as `factor`, and one of the last stands no higher than
    `factor` times their usual level. A rise that the weights do not share (they hold less than `moved` times the
    norm they began with) counts only from `certain` times the best on, so that a value loss growing with the
    returns of a learning agent is left alone. A loss that goes below zero has no ratio: it is judged by its
    distance from the start, in units of its best. Downwards it may go far, as a likelihood does; but one that fell
    below `bottom` times its start, or -`bottom`, while the weights tripled is a critic that nothing holds. Nan and
    inf lie above every line. Source: ours, over the best loss and not the last; that a run is to be left for several
    losses in a row is how llm-foundry's KillLossSpike has it, too.

    False alarms: an objective that is made harder on purpose by a factor of ten within a run.
    """

    factor: float = 10.0
    certain: float = 100.0
    moved: float = 1.5
    bottom: float = 1e4
    deviations: float = 3.0
    kinds: tuple[str, ...] = ("divergence",)

    UNITS: ClassVar = {
        "losses below zero": "a critic begins at about 0, of which no fall is a multiple: it is held to 1"
    }
    CALM: ClassVar = (
        [(1.0 / (1 + i), 1.0, 1.0) for i in range(60)],
        [(0.5, 1.0, 1.0)] * 20 + [(40.0, 9.0, 1.0)] + [(0.7, 1.0, 1.0)] * 10,
        [(2.3, 1.0, 1.0)] + [(0.01, 1.0, 1.0)] * 30 + [(0.5, 1.0, 1.0)] * 30,
        [(-1.0 - 0.1 * i, 1.0, 1.0) for i in range(60)],
        [(100.0 - 50.0 * i, 1.0, 1.0 + 0.1 * i) for i in range(60)],
    )
    SICK: ClassVar = (
        [(1.0, 1.0, 1.0)] * 5 + [(10.0**i, 10.0**i, 2.0**i) for i in range(1, 12)],
        [(1.0, 1.0, 1.0)] * 5
        + [(50.0, 9.0, 1.0), (900.0, 9.0, 1.0), (math.nan, math.nan, 1.0)]
        + [(math.nan,) * 3] * 5,
        [(-1.0, 1.0, 1.0)] * 30 + [(1e4, 1e4, 3.0)] * 8,
        [(-(10.0 ** (i / 4)), 1.0, 1.0 + i) for i in range(40)],
    )

    def look(self, signals: Signals, history: History) -> Finding | None:
        course = signals.course
        if len(course.recent) < RECENT or course.start is None:
            return None
        first = course.recent[0]
        if not math.isfinite(first.best) or math.isnan(first.loss):
            return None  # the loss was never finite; or it did not rise, it broke, and nonfinite_loss has said so
        since = statistics.median(math.inf if math.isnan(p.loss) else p.loss for p in course.recent)
        line = self.line(first.best, course.start)
        fallen = self._fallen(signals, history)
        if fallen is not None:
            return fallen
        # written so that nan falls on the alarm side
        lowest = min(first.loss, since)
        if lowest <= line:
            return None
        broken = not all(math.isfinite(p.loss) for p in course.recent)
        weights = history.weight_last is not None and history.weight_start is not None
        moved = not weights or (history.weight_last or 0.0) > self.moved * (history.weight_start or 0.0)
        if not (broken or moved or since > self.line(first.best, course.start, self.certain)):
            return None
        said = tell(
            "step {step}: the loss rose to {value} and stayed there; it had been down to {best}",
            step=first.step,
            value=f"{first.loss:.4g}",
            best=f"{first.best:.4g}",
        )
        doubtful = not broken and (
            self._returns(course, line)
            or lowest <= self.line(first.best * self.noise(course), course.start)
            or self._is_noise(course)
        )
        return _finding(signals, line, said, Level.WATCH if doubtful else Level.ALARM)

    def noise(self, course: Course) -> float:
        """How far a loss of this window lies below its usual level when it is the best of many: the line is drawn from
        the best, so it has to be taken back by as much. 1 where losses follow one another closely, or are not all
        positive; nor of a few, for then the rise itself is the noise."""
        losses = np.array(course.window)
        if len(losses) < WARM or not losses.min() > 0:
            return 1.0
        _, spread = middle_and_spread(np.diff(np.log(losses)).tolist())  # of steps, which a steady rise leaves alone
        return math.exp(self.deviations * spread / math.sqrt(2.0))

    def _is_noise(self, course: Course) -> bool:
        """Whether losses that jump as far as the line is away have not all left their usual level by as much."""
        if self.noise(course) < self.factor or course.start is None:
            return False
        usual = self.line(statistics.median(course.window[:-RECENT]), course.start)
        return min(point.loss for point in course.recent) <= usual

    def _returns(self, course: Course, line: float) -> bool:
        """Whether the loss is back, or on its way, from a height that runs come back from."""
        losses = [point.loss for point in course.recent]
        height = self.factor * abs(course.start or 0.0)
        if not all(loss <= height for loss in losses):  # nan is not
            return False
        return losses[-1] <= line or max(losses[-2:]) <= min(losses[:-2])

    def _fallen(self, signals: Signals, history: History) -> Finding | None:
        """The finding for an objective that is not bounded below, and went there."""
        course = signals.course
        first, start = course.recent[0], course.start or 0.0
        limit = -self.bottom * max(abs(start), 1.0)
        grown = (history.weight_last or 0.0) > 3.0 * (history.weight_start or math.inf)
        if not grown or not all(point.loss < limit for point in course.recent):
            return None
        said = tell(
            "step {step}: the loss fell to {value} and on; nothing bounds it below",
            step=first.step,
            value=f"{first.loss:.4g}",
        )
        return _finding(signals, limit, said)

    def line(self, best: float, start: float, factor: float | None = None) -> float:
        """The loss above which a run has diverged: never below where it started."""
        factor = self.factor if factor is None else factor
        if best > 0:
            return max(factor * best, start)
        return start + factor * factor * max(abs(start), abs(best), 1e-12)


def _finding(signals: Signals, limit: float, message: str, level: Level = Level.ALARM) -> Finding:
    course = signals.course
    first = course.recent[0]
    return Finding(
        kind="divergence",
        step=first.step,
        level=level,
        where=course.largest,
        value=first.loss,
        limit=limit,
        message=message,
    )
