"""Inputs or targets of the wrong scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class UnnormalisedData:
    """Gradients of the first layer grow with the inputs, all of them with the targets."""

    name: ClassVar[str] = "unnormalised_data"
    prior: ClassVar[float] = 0.1
    cures: ClassVar[tuple[str, ...]] = ("normalise_input", "normalise_target", "clip_norm")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        rms, spread = case.evidence.input_rms, case.evidence.input_spread
        if rms is not None:
            said = f"{rms:.3g}"
            if rms > 30:
                clues.append(
                    Clue(4.0, tell("inputs have size {rms} (root mean square); nets expect about 1", rms=said))
                )
            elif rms > 5:
                clues.append(
                    Clue(2.0, tell("inputs have size {rms} (root mean square); nets expect about 1", rms=said))
                )
            elif 0.1 < rms < 3:
                clues.append(Clue(-3.0, tell("inputs have a usual size ({rms})", rms=said)))
        else:
            clues.append(Clue(-2.0, tell("the inputs are not numbers on a scale")))
        target = case.evidence.target_rms
        if target is not None and target > 30:
            clues.append(
                Clue(
                    3.0 + (rms is not None and rms < 3) * 3.0,
                    tell("targets have size {rms} (root mean square)", rms=f"{target:.3g}"),
                )
            )
        if spread is not None and spread > 100:
            clues.append(Clue(2.0, tell("one input column is {spread} times as wide as most", spread=f"{spread:.3g}")))
        if case.at_once and not case.early:
            clues.append(Clue(-2.0, tell("training went well before it broke")))
        if case.tried("normalise_input", "normalise_target"):
            clues.append(Clue(2.0, tell("with standardised data the script learns")))
        if case.evidence.stale:
            clues.append(Clue(-1.0, tell("gradients were not cleared")))
        return clues
