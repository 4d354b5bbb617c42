"""A norm limit that steps down after an explosion, and up again while clipping stalls the learning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import Action, History, Keep, Measurement
from gradbelt.clip.rule import Example, down_to, measured, refuse, threshold
from gradbelt.errors import UsageError

FAR = math.log(10.0)  # above the usual ln(norm): a step of an explosion
HOT = 3  # such steps in a row are one; a single one is a spike, and the limit is there for it
USUAL = 0.98  # decay of the usual ln(norm)
LOOK = 50  # accepted steps whose mean loss is compared with the LOOK before
MOST = 0.9  # share of clipped steps from which clipping may be what stalls
LEARNT = 0.01  # the loss must fall by this share of itself, from one mean to the next, to be learning


@dataclass(frozen=True)
class Ladder:
    """The total L2 norm is at most the limit of the rung the run stands on, the first of `limits` to begin with.

    Down one rung: three accepted steps in a row whose norm, before clipping, is ten times the usual one. Up one: nine
    of ten of the last 100 steps were clipped, and the mean loss of the later 50 is not 1 % below that of the earlier.

    Use it when a run must survive unattended and nobody knows its threshold: it is what one does by hand. It reacts
    after three steps that each could do no more than the limit allows; where norms vary by themselves by a factor of
    ten, `Auto` is quieter. A step that is nan or inf moves no rung, because the belt leaves it out and forgets it.

    Where the run stands can't be told from the window of clipped norms, so it is noted: rung, usual ln(norm), hot steps
    in a row, and the count, clips and losses of the last look. Without a loss (`belt.see`) it never steps up; where
    several ranks train together all must be shown the same, or they step apart: average the loss over them first.
    Raises UsageError unless the limits fall and are above 0.

    >>> from gradbelt.clip.rule import measured
    >>> Ladder().decide(measured(2.0), History())
    Scale(coefficient=0.5)
    >>> Ladder().decide(measured(2.0), History(notes={"at": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)}))
    Scale(coefficient=0.25)
    """

    limits: Sequence[float] = (1.0, 0.5, 0.25, 0.1)
    name: ClassVar[str] = "ladder"
    SOURCE: ClassVar[str] = (
        "gradbelt's own; thresholds lowered after each divergence as in OPT-175B, arXiv:2205.01068 (2.5, 1.5, 1.0)"
    )

    def __post_init__(self) -> None:
        limits = tuple(threshold(limit, "Ladder's limit") for limit in self.limits)
        if not limits or any(low >= high for high, low in itertools.pairwise(limits)):
            raise UsageError(f"Ladder's limits are {limits}; write limits that fall, such as clip.Ladder((1.0, 0.1)).")
        object.__setattr__(self, "limits", limits)

    @classmethod
    def of(cls, *limits: float) -> Ladder:
        """From limits, as they are written on a command line; none for the usual ones."""
        return cls(limits) if limits else cls()

    def decide(self, seen: Measurement, history: History) -> Action:
        return down_to(self.limit_ahead(history), seen) if seen.finite else refuse(seen)

    def limit_ahead(self, history: History) -> float:
        rung = int(history.notes["at"][0]) if "at" in history.notes else 0
        return self.limits[min(rung, len(self.limits) - 1)]

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """Where the run stands after this step."""
        if not seen.total > 0.0:
            return {}
        level, last = math.log(seen.total), len(self.limits) - 1
        rung, usual, hot, count, clips, early, late = history.notes.get("at", (0.0, level, 0.0, 0.0, 0.0, 0.0, 0.0))
        hot = hot + 1.0 if level > usual + FAR else 0.0
        if hot >= HOT:
            # on the last rung there is nowhere to go: what is ten times the usual for so long is usual now
            usual = level if rung >= last else usual
            return {"at": (min(rung + 1.0, last), usual, 0.0, 0.0, 0.0, 0.0, 0.0)}
        if not hot:
            usual = USUAL * usual + (1.0 - USUAL) * level
        loss = sum(seen.losses.values()) if seen.losses else math.nan
        if not math.isfinite(loss):  # a sum with nan in it stays nan, and saved as JSON it would be no number
            return {"at": (rung, usual, hot, 0.0, 0.0, 0.0, 0.0)}
        early, late = (early + loss, late) if count < LOOK else (early, late + loss)
        count, clips = count + 1.0, clips + (action != Keep())
        if count >= 2 * LOOK:
            stalls = clips >= MOST * count and not early - late > LEARNT * abs(early)
            return {"at": (max(rung - 1.0, 0.0) if stalls else rung, usual, hot, 0.0, 0.0, 0.0, 0.0)}
        return {"at": (rung, usual, hot, count, clips, early, late)}


CALM = (Example(rule=Ladder(), seen=measured(0.6, 0.8)), Example(rule=Ladder(), seen=measured(0.0)))
SICK = (
    Example(rule=Ladder(), seen=measured(3.0, 4.0)),
    Example(rule=Ladder(), seen=measured(0.3, 0.4), history=History(notes={"at": (3.0, *[0.0] * 6)})),
)
