"""One matrix, applied again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Walking a recurrent net back through time multiplies by the same matrix once a time step."""

    name: ClassVar[str] = "recurrence"
    prior: ClassVar[float] = 0.08
    cures: ClassVar[tuple[str, ...]] = ("clip_norm", "orthogonal_init", "truncated_bptt", "gated_rnn")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        kinds, repeats = case.evidence.recurrent, case.evidence.repeats or 0
        plain = any(kind in ("RNN", "RNNCell") for kind in kinds)
        if plain:
            clues.append(
                Clue(
                    3.0,
                    tell(
                        "a plain recurrent layer, walked back {steps} steps",
                        steps=case.evidence.sequence if case.evidence.sequence is not None else "?",
                    ),
                )
            )
        elif repeats > 4:
            clues.append(Clue(3.0, tell("one layer runs {repeats} times in a step: a recurrent net", repeats=repeats)))
        elif kinds:
            clues.append(Clue(0.0, tell("gated recurrent layers only")))
        else:
            clues.append(Clue(-7.0, tell("no layer runs more than a few times in a step")))
        if case.lengthened:  # the same matrix, applied less often, had done no harm
            clues.append(Clue(-2.5, tell("training went well before it broke")))
        origin = case.evidence.origin
        if case.at_once and origin is not None and origin.stage != "update" and not case.overflowed:
            clues.append(Clue(-2.0, tell("one operation broke finite numbers of normal size")))
        if (plain or repeats > 4) and case.tried("clip_norm", "orthogonal_init"):
            clues.append(Clue(1.0, tell("clipping or an orthogonal matrix makes it learn")))
        if plain and case.tried("gated_rnn"):
            clues.append(Clue(1.5, tell("with gates in its recurrent layer it learns")))
        return clues
