"""The function between the layers doesn't fit the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class Activation:
    """Values stay flat, held by saturation, while gradients grow; or an unbounded function multiplies values up.

    A tanh whose weights are drawn twice too wide keeps its values at one and passes on gradients with a gain of 1.17 a
    layer (mean-field theory, Poole et al. 2016).
    """

    name: ClassVar[str] = "activation"
    prior: ClassVar[float] = 0.03
    cures: ClassVar[tuple[str, ...]] = ("activation_swap", "xavier_init", "norm_layer", "skip_connection")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        if not clues:
            clues.append(Clue(-3.0, tell("at the first step values and gradients keep step from layer to layer")))
        if not case.early:
            clues.append(Clue(-1.5, tell("training went well before it broke")))
        swapped = case.tried("activation_swap")
        if swapped is not None:
            clues.append(
                Clue(2.5, tell("with another activation function the script learns"))
                if swapped
                else Clue(-0.7, tell("another activation function alone did not help"))
            )
        return clues
