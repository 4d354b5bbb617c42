"""Attention that looks at one place only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class AttentionLogits:
    """Queries and keys grow until the softmax between them is certain: no gradient, then one that breaks.

    The gradient's norm need not show it, it may even fall; the logits do (Wortsman et al. 2023).
    """

    name: ClassVar[str] = "attention_logits"
    prior: ClassVar[float] = 0.04
    cures: ClassVar[tuple[str, ...]] = ("qk_norm", "logit_scaling", "warmup", "lower_lr")

    def weigh(self, case: Case) -> list[Clue]:
        if not case.evidence.attention:
            return [Clue(-8.0, tell("no attention was seen"))]
        clues = case.foretold(self.name)
        if any(finding.kind == "logit_growth" for finding in case.onset.findings):
            clues.append(Clue(3.0, tell("logits grew before it broke")))
        if not clues:
            clues.append(Clue(-2.0, tell("its attention logits were of a usual size at the first step")))
        normed = case.tried("qk_norm", "logit_scaling")
        if normed is not None:
            clues.append(
                Clue(2.5, tell("with queries and keys of one size the script learns"))
                if normed
                else Clue(-1.5, tell("queries and keys of one size did not help"))
            )
        return clues
