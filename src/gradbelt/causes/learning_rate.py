"""The step is too long for the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import STRUCTURE, Case, Clue


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The update overshoots: beyond two over the curvature every step makes the error larger.

    Every explosion looks like one from nearby, so what counts is the trial: the same script with a smaller step.
    """

    name: ClassVar[str] = "learning_rate"
    prior: ClassVar[float] = 0.28
    cures: ClassVar[tuple[str, ...]] = ("lower_lr", "warmup", "clip_norm")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        if case.risks(*STRUCTURE):
            clues.append(Clue(-2.0, tell("gains multiplied up before the first update was made")))
        lower = case.tried("lower_lr", "warmup")
        if lower is not None:
            clues.append(
                Clue(3.0, tell("with a lower learning rate the script learns"))
                if lower
                else Clue(-1.5, tell("a lower learning rate did not help"))
            )
        if case.at_once:
            clues.append(Clue(-2.0, tell("the numbers broke without having grown first")))
        elif case.leapt:
            clues.append(Clue(-2.0, tell("the loss jumped in a single step, after a step like any other")))
        elif case.fell:
            clues.append(Clue(-2.0, tell("nothing bounds the loss below; a smaller step only takes longer")))
        elif case.onset.first is not None and case.onset.first.kind == "divergence":
            clues.append(Clue(1.0, tell("the loss grew from step to step")))
        if case.stands_out:
            clues.append(Clue(-2.0, tell("at the same weights other batches do no harm")))
        elif (moved := case.evidence.moved) is not None and moved > FAR:
            clues.append(Clue(1.0, tell("updates changed the weights by {share} of themselves", share=f"{moved:.0%}")))
        if any(finding.kind == "grad_explosion" and finding.where is None for finding in case.onset.findings):
            clues.append(Clue(0.7, tell("a single step multiplied the weights")))
        if case.tried("he_init", "xavier_init", "orthogonal_init", "lsuv"):
            clues.append(Clue(-1.0, tell("another initialisation cures it at the same learning rate")))
        return clues


FAR = 0.1  # of itself: a weight matrix takes tens of updates to get there where all is well
