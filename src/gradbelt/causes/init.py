"""The weights start at the wrong size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class Init:
    """The product of the layers' gains is far from one before the first step is taken."""

    name: ClassVar[str] = "init"
    prior: ClassVar[float] = 0.1
    cures: ClassVar[tuple[str, ...]] = ("he_init", "lsuv", "orthogonal_init", "norm_layer")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        ratio = case.evidence.weight_ratio
        if ratio is not None:
            said = f"{ratio:.2g}"
            if ratio > 1.3:
                clues.append(
                    Clue(3.0, tell("weights start {ratio} times as large as He initialisation has them", ratio=said))
                )
            else:
                clues.append(
                    Clue(-2.0, tell("no layer starts larger than He initialisation has it ({ratio})", ratio=said))
                )
        if case.risks("activation"):
            clues.append(Clue(-2.0, tell("values keep their size, only gradients grow")))
        if not case.early:
            clues.append(Clue(-2.0, tell("training went well before it broke")))
        cured = case.tried("he_init", "xavier_init", "orthogonal_init", "lsuv")
        if cured is not None:
            clues.append(
                Clue(2.5, tell("with a standard initialisation the script learns"))
                if cured
                else Clue(-0.7, tell("a standard initialisation alone did not help"))
            )
        return clues
