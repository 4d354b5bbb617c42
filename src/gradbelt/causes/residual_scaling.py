"""Every block adds as much as was there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class ResidualScaling:
    """x + f(x), with f as large as x: the variance doubles with every block, and so does the gradient's.

    Scaling f by 1/sqrt(2 x blocks), or normalising inside it, keeps the sum at one size (GPT-2, DeepNorm, ReZero).
    """

    name: ClassVar[str] = "residual_scaling"
    prior: ClassVar[float] = 0.05
    cures: ClassVar[tuple[str, ...]] = ("residual_scale", "norm_layer", "lower_lr")

    def weigh(self, case: Case) -> list[Clue]:
        skips = case.evidence.skips
        if not skips:
            return [Clue(-8.0, tell("no skip connection was seen"))]
        clues = case.foretold(self.name)
        if case.evidence.norms:
            clues.append(Clue(-3.0, tell("its layers are normalised ({kinds})", kinds=", ".join(case.evidence.norms))))
        if not clues:
            clues.append(Clue(-3.0, tell("at the first step values and gradients keep step from layer to layer")))
        if case.at_once and not case.early:
            clues.append(Clue(-2.0, tell("the numbers broke without having grown first")))
        scaled = case.tried("residual_scale")
        if scaled is not None:
            clues.append(
                Clue(2.5, tell("with smaller residual branches the script learns"))
                if scaled
                else Clue(-1.0, tell("smaller residual branches alone did not help"))
            )
        return clues
