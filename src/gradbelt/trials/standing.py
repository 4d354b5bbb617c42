"""Case with outcomes -> where the trials stand: the arms that learn best, and those that could still change that."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradbelt._types import Outcome
from gradbelt.causes import Case, suspect
from gradbelt.clip.advice import OFTEN
from gradbelt.remedies import parse, parts
from gradbelt.remedies.clip_norm import ClipNorm
from gradbelt.supervise.prospect import learnt_by
from gradbelt.trials.arms import ARMS, BATTERY, CONTROL, DOUBT, deeds, invasiveness, names
from gradbelt.trials.judge import Metric, has_players

CLOSE = 0.05  # of the best: arms within it do equally well, and the least invasive of them comes first
SLACK = 0.002  # of the size of the loss at first, for losses that go to zero
SURE = 0.9  # confidence above which no other cause is looked into
FIXED = "fixed"  # what became of an arm at another seed, where seeds change nothing
LOOSER = 4.0  # times a threshold: a run that clips too tightly goes better there
TELLING = 2  # arms of each cause in doubt that tell it from the others


def good(case: Case, metric: Metric | None = None) -> list[Outcome]:
    """The arms that learn and end within CLOSE of the best of them: least invasive first, then the better loss.

    One that failed at another seed comes behind all that did not; one that does all that another does, and more, is
    not put before that for ending a little lower.
    """
    learning = [
        o
        for o in case.outcomes
        if o.outcome == "learning" and o.remedy != CONTROL and not o.idle and o.loss is not None
    ]
    if not learning:
        return []
    lowest = min(_loss(outcome) for outcome in learning)
    near = [o for o in learning if _loss(o) <= lowest + CLOSE * abs(lowest) + SLACK * case.scale]
    measured = [o.metric for o in learning if o.metric is not None and math.isfinite(o.metric)]
    if metric is not None and measured and 2 * len(measured) >= len(learning):  # few: the others were cut before it
        top = max(measured) if metric.highest else min(measured)
        near = [o for o in learning if o.metric is not None and abs(o.metric - top) <= CLOSE * abs(top)]
    does = {o.remedy: deeds(o.remedy) for o in near}

    def place(o: Outcome) -> tuple[float, ...]:
        least = max(_loss(each) for each in near if does[each.remedy] <= does[o.remedy])
        return _fails(o), invasiveness(o.remedy), len(parts(o.remedy)), least, len(does[o.remedy])

    return sorted(near, key=place)


def worth(case: Case, arms: Iterable[str], metric: Metric | None = None) -> list[str]:
    """Those of the arms that could still change what comes first, of the cures or of the causes.

    All of them until a cure is there and the control has failed. From then on an arm has to be one for a cause that may
    still be it, or of the battery and less invasive than the cure. Where cures of two kinds end equally well, no third
    is expected to do better, and one that is more invasive would come behind them: only those that tell two causes in
    doubt apart are left.
    """
    cures, control = good(case, metric), case.unchanged
    if not cures or control is None or control.outcome == "learning":
        return list(arms)
    deep = invasiveness(cures[0].remedy)
    agreed = len({frozenset(names(cure.remedy)) for cure in cures}) > 1
    suspected = suspect(case)
    doubted = [s.cause for s in suspected if s.confidence >= DOUBT and suspected[0].confidence < SURE]
    meant = {name for cause in doubted or [suspected[0].cause] for arm in ARMS.get(cause, ()) for name in names(arm)}
    meant |= {name for arm in BATTERY if invasiveness(arm) < deep or len(doubted) > 1 for name in names(arm)}
    telling = {arm for cause in doubted if len(doubted) > 1 for arm in _alone(cause)[:TELLING]}

    def could(arm: str) -> bool:
        return arm in telling or (names(arm) <= meant and not (agreed and invasiveness(arm) > deep))

    return [arm for arm in arms if could(arm)]


def pressing(case: Case, arms: Iterable[str]) -> list[str]:
    """Those of the arms that take the remedy of a likely cause further, to another value: tried before any other."""
    likely = [suspicion.cause for suspicion in suspect(case) if suspicion.confidence >= DOUBT]
    meant = {name for cause in likely for arm in _alone(cause) for name in names(arm)}
    return [arm for arm in arms if len(parts(arm)) == 1 and names(arm) <= meant]


def looser(case: Case, metric: Metric | None = None) -> str | None:
    """The arm that tells whether the first cure clips too tightly: four times its threshold. None where it is no clip
    alone, or one that touches few steps."""
    cures, control = good(case, metric), case.unchanged
    if not cures or control is None or control.outcome == "learning" or not (cures[0].clip_rate or 0.0) > OFTEN:
        return None
    threshold = clip_of(cures[0])
    return None if threshold is None else f"clip_norm={LOOSER * threshold:g}"


def clip_of(outcome: Outcome) -> float | None:
    """The threshold of an arm that clips by the norm and does nothing else."""
    remedies = parse(outcome.remedy) if outcome.remedy else []
    return remedies[0].value if len(remedies) == 1 and isinstance(remedies[0], ClipNorm) else None


def alike(one: Outcome, other: Outcome) -> bool:
    """Whether two arms that learn end within CLOSE of each other."""
    low, high = sorted((_loss(one), _loss(other)))
    return high <= low + CLOSE * abs(low)


def par(case: Case, steps: int) -> int | None:
    """The step by which a trial that is going to learn has begun to: half its way, where all that learn had begun
    before a quarter of it. None while nothing learns, and where no loss need fall."""
    curves = [o.curve for o in case.outcomes if o.outcome == "learning" and o.remedy != CONTROL and not o.idle]
    begun = [learnt_by(curve) for curve in curves]
    known = [step for step in begun if step is not None]
    if not known or len(known) < len(begun) or has_players(case.record) or max(known) > steps // 4:
        return None
    return steps // 2


def _fails(outcome: Outcome) -> int:
    """At how many other seeds."""
    return sum(each in ("nonfinite", "finite_not_learning") for each in outcome.again)


def _alone(cause: str) -> list[str]:
    return [arm for arm in ARMS.get(cause, ()) if len(parts(arm)) == 1]


def _loss(outcome: Outcome) -> float:
    return math.inf if outcome.loss is None else outcome.loss
