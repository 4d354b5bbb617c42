"""A loss that is a sum, or multiplied, where a mean was meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue
from gradbelt.examine.foresee import MANY


@dataclass(frozen=True, slots=True)
class LossScaleBug:
    """The gradient is larger by the number of rows, or by a fixed loss scale that half precision can't hold."""

    name: ClassVar[str] = "loss_scale_bug"
    prior: ClassVar[float] = 0.04
    cures: ClassVar[tuple[str, ...]] = ("loss_reduction", "loss_scale")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        start, batch, summed = next(iter(case.losses), None), case.evidence.batch, case.evidence.summed or 0
        if summed >= MANY:
            clues.append(Clue(3.0, tell("the loss adds up {count} numbers, and is not divided by them", count=summed)))
        elif start is not None and batch is not None and batch >= 16 and 0.2 * batch < start < 20 * batch:
            clues.append(
                Clue(
                    2.0,
                    tell(
                        "the first loss is {loss}, about the number of rows ({rows}): a sum?",
                        loss=f"{start:.4g}",
                        rows=batch,
                    ),
                )
            )
        elif case.evidence.half and start is not None and start > 1e4:
            clues.append(Clue(2.5, tell("the loss that goes into backward is {loss}", loss=f"{start:.4g}")))
        else:
            clues.append(Clue(-3.0, tell("the size of the loss is that of a mean")))
        if not case.early and not case.evidence.half:
            clues.append(Clue(-1.0, tell("training went well before it broke")))
        cured = case.tried("loss_reduction", "loss_scale")
        if cured is not None:
            clues.append(
                Clue(3.0, tell("with a mean, or a smaller scale, of the loss the script learns"))
                if cured
                else Clue(-1.5, tell("a mean, or a smaller scale, of the loss did not help"))
            )
        if case.tried("lower_lr") and not case.at_once:
            clues.append(Clue(1.0, tell("a smaller step cures it, as dividing the loss would")))
        return clues
