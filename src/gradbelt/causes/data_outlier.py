"""One bad batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue
from gradbelt.examine.reproduce import stands_out


@dataclass(frozen=True, slots=True)
class DataOutlier:
    """A few rows far outside the rest: a sentinel, a broken label, an empty mask."""

    name: ClassVar[str] = "data_outlier"
    prior: ClassVar[float] = 0.08
    cures: ClassVar[tuple[str, ...]] = ("skip_batch", "impute_data", "clip_norm")

    def weigh(self, case: Case) -> list[Clue]:
        clues = []
        peak, jump = case.evidence.input_peak, case.jump
        element = case.evidence.element
        if element is not None and element.ratio is not None:
            clues.append(Clue(5.0, stands_out(element)))
        elif peak is not None and math.isfinite(peak):
            said = f"{peak:.3g}"
            if peak > 10 and not case.early:
                clues.append(
                    Clue(5.0, tell("the batch of that step holds an input {peak} times the usual largest", peak=said))
                )
            elif peak < 3:
                clues.append(Clue(-1.0, tell("the inputs of that step look like those before ({peak})", peak=said)))
        clues += _beside_others(case)
        origin = case.evidence.origin
        if origin is not None and origin.stage == "data" and origin.op != "batch":  # that one is finite: judged below
            clues.append(Clue(6.0, tell("nan or inf came in with the data")))
        if case.evidence.half and case.evidence.finite_in in ("float32", "float64"):
            clues.append(Clue(-2.0, tell("that batch is finite in {precision}", precision=case.evidence.finite_in)))
        if case.leapt:
            clues.append(Clue(3.0, tell("the loss jumped in a single step, after a step like any other")))
        if case.early:
            clues.append(Clue(-2.0, tell("it was there from the first steps on")))
        elif jump is not None and jump > JUMP:
            clues.append(
                Clue(1.5, tell("the gradient jumped to {jump} times its median in one step", jump=f"{jump:.3g}"))
            )
        elif case.at_once:
            clues.append(Clue(1.0, tell("the steps before were like any other")))
        if case.tried("skip_batch", "impute_data"):
            clues.append(Clue(2.0, tell("without the outlying numbers the script learns")))
        if case.tried("skip_spike", "skip_step"):
            clues.append(Clue(1.5, tell("leaving out single steps makes it learn")))
        return clues


def _beside_others(case: Case) -> list[Clue]:
    """What other batches at the same weights say: the batch of the onset is unlike them, or it is the weights."""
    ratio, row, share = case.evidence.batch_ratio, case.evidence.example_ratio, case.evidence.example_share
    if ratio is None:
        return []
    if not case.stands_out:
        said = tell("at the same weights other batches make gradients like it ({ratio})", ratio=f"{ratio:.3g}")
        dated = case.leapt or (case.jump or 0.0) > JUMP  # else it may have been another step's batch
        return [Clue(-3.0 if dated else -1.0, said)] if ratio < ALIKE else []
    if not math.isfinite(ratio):
        return [Clue(1.0, tell("at the same weights other batches do not break"))]
    clues = [
        Clue(2.0, tell("its gradient is {ratio} times that of other batches at the same weights", ratio=f"{ratio:.3g}"))
    ]
    if row is not None and share is not None:
        said = tell("one row of that batch makes {share} of its gradient, {ratio} times as much as most",
                    share=f"{share:.0%}", ratio=f"{row:.3g}")  # fmt: skip
        clues.append(Clue(2.0, said))
    return clues


JUMP = 30.0  # times the median gradient norm
ALIKE = 3.0  # times the other batches' median: nothing out of the usual
