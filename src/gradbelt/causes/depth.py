"""Too many layers in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class Depth:
    """A gain a little above one, multiplied by itself once a layer."""

    name: ClassVar[str] = "depth"
    prior: ClassVar[float] = 0.06
    cures: ClassVar[tuple[str, ...]] = ("skip_connection", "norm_layer", "he_init")

    def weigh(self, case: Case) -> list[Clue]:
        clues = case.foretold(self.name)
        depth = case.evidence.depth
        if depth is not None:
            if depth >= 20 and not case.evidence.norms:
                clues.append(Clue(2.5, tell("{depth} layers in a row and no normalisation", depth=depth)))
            elif depth < 10:
                clues.append(Clue(-4.0, tell("only {depth} layers", depth=depth)))
        gain = case.evidence.gain
        flat = case.risks("activation")  # whose gain that is
        if gain is not None and gain > 30 and (depth or 0) >= 10 and not flat:
            clues.append(
                Clue(2.0, tell("at step 0 the first layer's gradient is {gain} times the last's", gain=f"{gain:.3g}"))
            )
        if case.evidence.skips:
            clues.append(Clue(-2.0, tell("there are {skips} ways past its layers", skips=case.evidence.skips)))
        if flat:
            clues.append(Clue(-2.0, tell("values keep their size, only gradients grow")))
        elif case.best_has("skip_connection"):
            clues.append(Clue(2.5, tell("with a way past its layers the script learns best")))
        if not case.early:
            clues.append(Clue(-1.5, tell("training went well before it broke")))
        return clues
