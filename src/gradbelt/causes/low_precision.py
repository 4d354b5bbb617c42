"""A number too large for half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class LowPrecision:
    """float16 ends at 65504; squares overflow from 256 on, exp from 11."""

    name: ClassVar[str] = "low_precision"
    prior: ClassVar[float] = 0.05
    cures: ClassVar[tuple[str, ...]] = ("precision", "loss_scale")

    def weigh(self, case: Case) -> list[Clue]:
        clues = []
        if not case.evidence.half:
            return [Clue(-8.0, tell("nothing runs in half precision"))]
        clues.append(Clue(2.0, tell("runs in {kinds}", kinds=", ".join(case.evidence.half))))
        if case.onset.first is not None and case.onset.first.kind[:3] in ("nan", "inf"):
            clues.append(Clue(1.5, tell("the first sign is a number that is not finite")))
        if case.evidence.finite_in in ("float32", "float64"):
            clues.append(
                Clue(4.0, tell("the operation that broke is finite in {precision}, on the very same numbers",
                               precision=case.evidence.finite_in))
            )  # fmt: skip
        elif case.evidence.finite_in == "none":
            clues.append(Clue(-4.0, tell("the operation that broke is not finite in float64 either")))
        cured = case.tried("precision")
        if cured is not None:
            clues.append(
                Clue(3.5, tell("in float32 the script learns")) if cured else Clue(-4.0, tell("float32 did not help"))
            )
        return clues
