"""Suspicions x outcomes -> Prescriptions, ranked; and the advice on clipping that every run gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gradbelt._told import tell
from gradbelt._types import ClipAdvice, Evidence, Level, Onset, Outcome, Prescription, RunRecord, Seeds, Suspicion
from gradbelt.causes import Case
from gradbelt.clip.advice import Clipped, advise, typed
from gradbelt.remedies import REMEDIES, parts
from gradbelt.trials.arms import CONTROL, invasiveness, names, usual
from gradbelt.trials.judge import Metric
from gradbelt.trials.standing import CLOSE, FIXED, LOOSER, alike, clip_of, good

MOST = 5
CRUTCHES = {"skip_step", "skip_spike", "zero_nan"}  # step around what breaks
MENDS = {"eps_in_op", "mask_fix", "impute_data"}  # see to it that it doesn't
Patch = Callable[[tuple[str, ...]], str | None]


def prescribe(
    case: Case,
    suspicions: Sequence[Suspicion],
    *,
    metric: Metric | None = None,
    patch: Patch = lambda _: None,
    by_hand: Callable[[tuple[str, ...]], str] = lambda _: "",
) -> tuple[Prescription, ...]:
    """What to change. First what a trial has proven, the least invasive of the equally good; then, unproven, the cures
    of the likeliest causes that no trial has refuted.

    A remedy is verified only if the unchanged control failed again and the remedy made the script learn. Where the
    control went well nothing can be shown: then all that is usual against the likeliest causes is named.

    Args:
        patch: Remedies -> the diff that writes them into the script, or None. by_hand: What to say where there is none.
    """
    control = next((outcome for outcome in case.outcomes if outcome.remedy == CONTROL), None)
    failed = control is not None and control.outcome != "learning"
    best = [] if control is not None and not failed else good(case, metric)
    best = best if len(best) > 1 else [*best, *_second_choice(case, best)]
    mend = next((o.remedy for o in best if names(o.remedy) <= MENDS), None)
    proven = []
    for rank, outcome in enumerate(best[:MOST], 1):
        remedies = tuple(parts(outcome.remedy))
        edit, seeds = patch(remedies), _seeds(outcome, control)
        proven.append(
            Prescription(
                rank=rank,
                remedies=remedies,
                verified=failed,
                why=_at_seeds(_why(outcome, control, mend), outcome, seeds),
                seeds=seeds,
                patch=edit,
                by_hand="" if edit else by_hand(remedies),
                proven_after=_both(outcome.ended, control.ended) if failed and control is not None else None,
            )
        )
    return (*proven, *_unproven(case, suspicions, len(proven))) if len(proven) < 2 else tuple(proven)


def advise_clip(record: RunRecord, found: Onset, outcomes: Sequence[Outcome] = ()) -> ClipAdvice:
    """Whether the run needs clipping, at which global norm, and how many of its steps that would touch.

    From trials also whether four times that norm does as well, and whether it goes without. Of a run that went well,
    and in which the script or the belt clips, how that fitted.
    """
    advice = _needed(record, found, outcomes)
    rows = [row for row in record.steps if row.optimizer == record.steps[0].optimizer and not row.skipped]
    before, after = [row.unclipped or row.total for row in rows], [row.total_after for row in rows]
    losses = [math.fsum(row.losses.values()) for row in rows if row.losses]
    clipped = advise(Clipped(before=before, after=after, losses=losses))
    if not found.exploded and clipped.fit == "not_needed" and any(row.unclipped is not None for row in rows):
        return replace(advice, fit=clipped.fit, notes=clipped.said, droppable=True)
    if found.exploded or not clipped.clip_rate:
        return advice
    return replace(advice, fit=clipped.fit, notes=clipped.said)


def _needed(record: RunRecord, found: Onset, outcomes: Sequence[Outcome]) -> ClipAdvice:
    case = Case(record=record, onset=found, evidence=Evidence(reproduced=False), outcomes=tuple(outcomes))
    exploded, at_once = found.exploded, case.at_once
    jumped = any(f.shape == "jump" and f.level >= Level.WARN for f in found.findings)
    norms = np.array([row.unclipped or row.total for row in record.steps], dtype=float)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    clips = [o for o in outcomes if clip_of(o) is not None]
    learning = [o for o in clips if o.outcome == "learning" and o.loss is not None]
    if exploded and case.unchanged is not None and case.unchanged.outcome == "learning":
        why = tell("unchanged the script did not break again, so that clipping helps can't be shown")
        return ClipAdvice(needed=False, threshold=None, clip_rate=None, why=why)
    if learning:
        return _tried(case, min(learning, key=_loss), clips)
    if exploded and clips:
        return ClipAdvice(
            needed=False,
            threshold=None,
            clip_rate=None,
            why=tell("clipping alone does not make this script learn; it would hide the cause"),
            droppable=bool(good(case)),
        )
    if not len(norms):
        return ClipAdvice(needed=False, threshold=None, clip_rate=None, why=tell("no gradient was seen"))
    typical, high = float(np.median(norms)), float(np.quantile(norms, 0.95))
    tail = float(np.quantile(norms, 0.99)) / typical
    threshold = typed(high)
    rate = float(np.mean(norms > threshold))
    if exploded and at_once:
        return ClipAdvice(
            needed=False,
            threshold=None,
            clip_rate=None,
            why=tell("numbers broke that had not grown; nan and inf pass through a clip"),
        )
    if exploded:
        return ClipAdvice(
            needed=True,
            threshold=1.0,
            clip_rate=float(np.mean(norms > 1.0)),
            why=tell("start at 1.0; go down to 0.1 if it explodes again, up if training crawls"),
        )
    if jumped:
        return ClipAdvice(
            needed=True,
            threshold=threshold,
            clip_rate=rate,
            why=tell(
                "it went well, but the gradient jumped on the way; a belt at {threshold} holds that",
                threshold=f"{threshold:g}",
            ),
        )
    return ClipAdvice(
        needed=False,
        threshold=threshold,
        clip_rate=rate,
        why=tell(
            "the largest norms are {tail} times the median; as a belt, {threshold} would touch few steps",
            tail=f"{tail:.2g}",
            threshold=f"{threshold:g}",
        ),
    )


def _seeds(outcome: Outcome, control: Outcome | None) -> Seeds | None:
    again, unchanged = outcome.again, () if control is None else control.again
    if not again or FIXED in again or len(again) != len(unchanged):
        return None
    learns, fails = again.count("learning"), sum(each != "learning" for each in unchanged)
    return Seeds(tried=1 + len(again), learns=1 + learns, fails=1 + fails)


def _at_seeds(why: str, outcome: Outcome, seeds: Seeds | None) -> str:
    if seeds is not None:
        return tell(
            "{why} It learns at {learns} of {tried} seeds; unchanged the script fails at {fails} of them.",
            why=why,
            learns=seeds.learns,
            tried=seeds.tried,
            fails=seeds.fails,
        )
    if FIXED in outcome.again:
        return tell("{why} The script runs the same at every seed, so it was shown once.", why=why)
    return why


def _tried(case: Case, best: Outcome, clips: Sequence[Outcome]) -> ClipAdvice:
    """What trials have shown of clipping: whether it takes it, and how tightly. `best`: the clip that learns best."""
    threshold = clip_of(best) or 0.0
    needed = bool(case.tried("clip_norm"))
    other = next((o.remedy for o in good(case) if "clip" not in o.remedy), None)
    if not needed:
        why = tell("clipping keeps the run alive, but another remedy learns much better: it only eases the cause")
    elif other is None:
        why = tell("with clipping at {threshold} the script learns, without it it does not", threshold=f"{threshold:g}")
    else:
        why = tell(
            "with clipping at {threshold} the script learns; it can be dropped where {remedy} is put in, which does as "
            "well",
            threshold=f"{threshold:g}",
            remedy=other,
        )
    by_threshold = {clip_of(outcome): outcome for outcome in clips}
    loose, tight = by_threshold.get(LOOSER * threshold), by_threshold.get(threshold / LOOSER)
    shown, notes = None, list[str]()
    if loose is not None:
        shown = "alike" if loose.outcome == "learning" and alike(best, loose) else "worse"
        notes.append(
            tell("four times the threshold, {looser}, does as well", looser=f"{LOOSER * threshold:g}")
            if shown == "alike"
            else tell("four times the threshold, {looser}, does not do as well", looser=f"{LOOSER * threshold:g}")
        )
    if tight is not None and tight.outcome == "learning" and not alike(best, tight):
        notes.append(
            tell(
                "at a quarter of it, {tighter}, the run crawls: it ends at loss {loss}",
                tighter=f"{threshold / LOOSER:g}",
                loss=f"{tight.loss:.4g}",
            )
        )
    return ClipAdvice(
        needed=needed,
        threshold=threshold,
        clip_rate=best.clip_rate,
        why=why,
        notes=tuple(notes),
        looser=shown,
        droppable=other is not None or not needed,
    )


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _why(outcome: Outcome, control: Outcome | None, mend: str | None = None) -> str:
    end = "?" if outcome.loss is None else f"{outcome.loss:.4g}"
    if mend is not None and names(outcome.remedy) <= CRUTCHES:
        return tell(
            "With {remedy} the run learns and ends at loss {loss}. It steps around the fault, which {mend} mends.",
            remedy=outcome.remedy,
            loss=end,
            mend=mend,
        )
    if control is None or control.loss is None or control.outcome == "nonfinite":
        return tell(
            "With {remedy} the run learns and ends at loss {loss}; unchanged it breaks.",
            remedy=outcome.remedy,
            loss=end,
        )
    return tell(
        "With {remedy} the run learns and ends at loss {loss}; unchanged it ends at {control}.",
        remedy=outcome.remedy,
        loss=end,
        control=f"{control.loss:.4g}",
    )


def _second_choice(case: Case, best: Sequence[Outcome]) -> list[Outcome]:
    """Beside an only best arm the least invasive that does something else, and came nearly as far from where losses
    began: what is proven comes before what was never tried, and may have a diff where the best has none."""
    done = {name for outcome in best for name in names(outcome.remedy)}
    learning = [o for o in case.outcomes if o.outcome == "learning" and o.remedy != CONTROL and not o.idle]
    reach = min(map(_loss, best), default=-math.inf) + CLOSE * case.scale
    near = [o for o in learning if not names(o.remedy) & done and _loss(o) <= reach]
    return sorted(near, key=lambda o: (invasiveness(o.remedy), len(parts(o.remedy)), _loss(o)))[:1]


def _unproven(case: Case, suspicions: Sequence[Suspicion], proven: int) -> list[Prescription]:
    """Cures of the likeliest causes that no trial has refuted or proven; of none that is hardly suspected."""
    lived = case.unchanged is not None and case.unchanged.outcome == "learning"
    found: list[Prescription] = []
    for name, cause in usual(replace(case, outcomes=()) if lived else case, suspicions).items():
        if lived:
            why = tell(
                "Usual against {cause}; unchanged the script did not break again, so nothing can be shown.", cause=cause
            )
        elif name in REMEDIES:
            why = tell("Usual against {cause}; a trial would show whether it helps here.", cause=cause)
        else:
            why = tell("Usual against {cause}; it can't be tried from outside, so it is not proven.", cause=cause)
        found.append(Prescription(rank=proven + len(found) + 1, remedies=(name,), verified=False, why=why))
    return found[: MOST - proven]


def _loss(outcome: Outcome) -> float:
    return math.inf if outcome.loss is None else outcome.loss
