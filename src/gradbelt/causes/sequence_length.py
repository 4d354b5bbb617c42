"""Walked back too far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class SequenceLength:
    """A gain a time step that was harmless over a short sequence, over a longer one.

    Not the matrix is at fault but how often it is applied: sequences that grew while the script ran, or a walk over
    hundreds of steps that a cut after fewer cures.
    """

    name: ClassVar[str] = "sequence_length"
    prior: ClassVar[float] = 0.03
    cures: ClassVar[tuple[str, ...]] = ("truncated_bptt", "clip_norm", "gated_rnn")

    def weigh(self, case: Case) -> list[Clue]:
        first, last = case.evidence.sequence or case.evidence.repeats or 0, case.evidence.unrolled
        if max(first, last or 0) <= SHORT:
            return [Clue(-7.0, tell("no layer runs more than a few times in a step"))]
        clues = []
        if case.lengthened:
            clues.append(
                Clue(
                    5.0, tell("sequences had grown from {first} to {last} steps when it broke", first=first, last=last)
                )
            )
        elif max(first, last or 0) > LONG:
            clues.append(Clue(1.0, tell("walked back over {steps} steps", steps=max(first, last or 0))))
        cut = case.tried("truncated_bptt")
        if cut is not None:
            clues.append(
                Clue(1.0, tell("walked back less far the script learns"))
                if cut
                else Clue(-1.0, tell("walking back less far did not help"))
            )
        return clues


SHORT, LONG = 4, 200  # time steps
