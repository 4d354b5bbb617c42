"""Nothing holds the layers' values at one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class MissingNorm:
    """Many layers and no normalisation: every change of one is multiplied by all that follow.

    Hard to tell from too much depth by looking; what tells is whether the script learns best once its layers are
    normalised.
    """

    name: ClassVar[str] = "missing_norm"
    prior: ClassVar[float] = 0.04
    cures: ClassVar[tuple[str, ...]] = ("norm_layer", "residual_scale", "clip_norm")

    def weigh(self, case: Case) -> list[Clue]:
        if case.evidence.norms:
            return [Clue(-5.0, tell("its layers are normalised ({kinds})", kinds=", ".join(case.evidence.norms)))]
        depth = case.evidence.depth
        if depth is None or depth < FEW:
            return [Clue(-4.0, tell("only {depth} layers", depth="?" if depth is None else depth))]
        clues = [Clue(1.0, tell("{depth} layers in a row and no normalisation", depth=depth))]
        if case.risks("residual_scaling"):
            clues.append(Clue(1.5, tell("what the blocks add up is never normalised")))
        if case.at_once and not case.early:
            clues.append(Clue(-2.0, tell("the numbers broke without having grown first")))
        normed = case.tried("norm_layer")
        if normed is not None:
            clues.append(
                Clue(2.0, tell("with normalised layers the script learns"))
                if normed
                else Clue(-1.0, tell("normalised layers alone did not help"))
            )
        return clues


FEW = 6  # layers below which none needs to be normalised
