"""Signals -> Verdict: every detector looks at one step; a whole record is judged by replaying it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

from gradbelt._told import tell
from gradbelt._types import (
    RECENT,
    Course,
    Finding,
    History,
    Keep,
    Level,
    Onset,
    RunRecord,
    Signals,
    Skip,
    StepRecord,
    Verdict,
)
from gradbelt.belt.attribute import attribute, placed
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.episodes import Episodes, news
from gradbelt.symptoms import DETECTORS, HINDSIGHTS, Detector
from gradbelt.symptoms.scale_spiral import never_steps
from gradbelt.symptoms.stalled import flat_at

RUINED = 10.0  # times the weights a run began with
SPOILT = "spoilt"  # kind of event: a buffer, or a state of an optimizer, is no longer finite
BACK = 1.1  # times the best loss before it left: at most that, and a run has come back


def judge(signals: Signals, history: History, detectors: Sequence[Detector] = DETECTORS) -> Verdict:
    """Everything the detectors find at this step, in their order, with where in the model it lies."""
    found = [finding for detector in detectors if (finding := detector.look(signals, history)) is not None]
    if not found:
        return ()
    parts = attribute(signals, history)
    return tuple(placed(finding, parts, signals.worst) for finding in found)


def replay(
    record: RunRecord, detectors: Sequence[Detector] = DETECTORS
) -> Iterator[tuple[StepRecord, Verdict, Course]]:
    """Each step of a record with the verdict it got, or would have got, while the run was going, and the course then.

    All that was found at every step; `told` is what was said of it."""
    for row, signals, history in retrace(record):
        yield row, judge(signals, history, detectors), signals.course


def retrace(record: RunRecord) -> Iterator[tuple[StepRecord, Signals, History]]:
    """Each step of a record with what could be seen of it, and what was remembered, when it took place."""
    histories: dict[int, History] = {}
    course = Course()
    for row in record.steps:
        history = histories.get(row.optimizer, History())
        seen = row.measurement()
        course = advance(course, seen)
        yield row, derive(seen, history, course), history
        action = Skip(row.action) if row.skipped else None
        histories[row.optimizer] = learn(history, seen, action or Keep(), row.total_after)


def told(record: RunRecord) -> Iterator[Finding]:
    """What was told while the run was going, or would have been: every episode once, and when it grew louder."""
    episodes: Episodes = {}
    for row, verdict, _ in replay(record):
        new, episodes = news(verdict, row.step, episodes)
        yield from new


def onset(record: RunRecord) -> Onset:
    """When it began, and all that was found, one finding a kind and shape.

    A step that the belt left out did no harm: what was found there is a warning, unless most of the run's end had to be
    left out, for then nothing is learnt any more.
    """
    tail = record.steps[-20:]
    handled = 2 * sum(row.skipped for row in tail) <= len(tail)
    found: list[Finding] = []
    losses: list[tuple[int, float]] = []
    unsound: set[int] = set()
    for row, verdict, course in replay(record):
        spared = handled and row.skipped
        unsound |= _unsound(row, verdict)
        found += [replace(f, level=Level.WARN) if spared and f.level is Level.ALARM else f for f in verdict]
        losses += [(point.step, point.loss) for point in course.recent[-1:] if row.losses]
    harmless = {row.step for row in record.steps if math.isfinite(row.total)}
    ruined = _ruined(record)
    found = [replace(f, level=Level.WARN) if not ruined and _came_back(f, losses, harmless) else f for f in found]
    found = _dated_back(found, losses)
    found += _after_the_last_step(record)
    if not any(finding.level is Level.ALARM for finding in found):
        looks = (hindsight.look_back(record) for hindsight in HINDSIGHTS)
        found += [finding for finding in looks if finding is not None]
    findings = first_of_each(found)
    alarms = [finding.step for finding in findings if finding.level is Level.ALARM]
    bad = min(alarms, default=None)
    loud = [f.step for f in found if f.level >= Level.WARN and (bad is None or f.step <= bad)]
    sound = {row.step for row in record.steps} - unsound
    return Onset(
        exploded=bad is not None,
        warning_step=min(loud, default=None),
        bad_step=bad,
        findings=findings,
        healthy_step=None if bad is None else max((step for step in sound if step < bad), default=None),
    )


def _unsound(row: StepRecord, verdict: Verdict) -> set[int]:
    """The steps that are not clearly healthy, by what was found at this one; a finding may reach a few steps back."""
    steps = {step for f in verdict if f.level >= Level.WARN for step in range(f.step, row.step + 1)}
    if not all(map(math.isfinite, (row.total, *row.losses.values()))):
        steps.add(row.step)
    return steps


def _ruined(record: RunRecord) -> bool:
    """Whether the run ended where it had begun, its weights many times as large: it came back, and learns no more."""
    weights = [weight for row in record.steps if (weight := row.measurement().weight_total) is not None]
    return len(weights) > 1 and weights[-1] > RUINED * weights[0] > 0 and flat_at(record) is not None


def _dated_back(found: Sequence[Finding], losses: Sequence[tuple[int, float]]) -> list[Finding]:
    """A divergence that was only watched is an alarm where one came of it: where the loss did not come down again, to
    what it had been before, until the next that was certain."""
    alarms = [f.step for f in found if f.kind == "divergence" and f.level is Level.ALARM]

    def led_there(finding: Finding) -> bool:
        certain = min((step for step in alarms if step > finding.step), default=-1)
        before = [loss for step, loss in losses if step < finding.step and math.isfinite(loss)]
        since = [loss for step, loss in losses if finding.step <= step <= certain]
        return bool(before) and bool(since) and not min(since) <= BACK * min(before)

    return [
        replace(f, level=Level.ALARM) if f.kind == "divergence" and f.level is Level.WATCH and led_there(f) else f
        for f in found
    ]


def _came_back(finding: Finding, losses: Sequence[tuple[int, float]], harmless: Set[int]) -> bool:
    """Whether a run went on unharmed after a finding about its loss.

    A loss that had diverged ended as low as it had been before: heavy-tailed runs leave and return. A loss that broke
    left a finite gradient (every target of that batch was ignored, say), and those after it are finite.
    """
    if finding.kind in ("nan_loss", "inf_loss"):
        end = [loss for _, loss in losses[-max(RECENT, len(losses) // 10) :]]
        return finding.step in harmless and all(map(math.isfinite, end))
    if finding.kind != "divergence" or finding.fell:
        return False
    before = [loss for step, loss in losses if step < finding.step and math.isfinite(loss)]
    end = [loss for _, loss in losses[-max(RECENT, len(losses) // 10) :]]
    return all(map(math.isfinite, end)) and bool(before) and statistics.median(end) <= BACK * min(before)


def _after_the_last_step(record: RunRecord) -> list[Finding]:
    """What shows only outside the rows: a loss that stopped the script, a scaler that never found its scale, numbers
    beside the weights that broke."""
    found = []
    for where, loss in record.tail.items():
        if not math.isfinite(loss):
            kind = "nan" if math.isnan(loss) else "inf"
            step = record.num_steps
            found.append(
                Finding(
                    kind=f"{kind}_loss",
                    step=step,
                    level=Level.ALARM,
                    where=where,
                    value=loss,
                    message=tell("step {step}: the loss at {where} is {kind}", step=step, where=where, kind=kind),
                )
            )
    for event in record.events:
        if event.kind == "scaler_spiral":
            found.append(never_steps(event.step))
        elif event.kind == SPOILT:
            place, number = str(event.data["where"]), event.data["number"]
            said = tell("step {step}: {where} has become {number}", step=event.step, where=place, number=number)
            found.append(
                Finding(
                    kind=f"{number}_weight", step=event.step, level=Level.WARN, where=place, shape="beside",
                    message=said,
                )
            )  # fmt: skip
    return found


def first_of_each(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding a kind and shape, the loudest and then the earliest: an episode is told once. Alarms first, each in
    order of step."""
    first: dict[tuple[str, str | None], Finding] = {}
    for finding in findings:
        known = first.get(key := (finding.kind, finding.shape))
        if known is None or (-finding.level, finding.step) < (-known.level, known.step):
            first[key] = finding
    return tuple(sorted(first.values(), key=lambda finding: (finding.level is not Level.ALARM, finding.step)))
