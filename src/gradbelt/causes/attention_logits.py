"""Attention that looks at one place only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt._types import Evidence
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
        sharp = _is_sharp(case.evidence)
        if sharp:
            said = tell("its attention's logits reach {peak}, and of its entropy {entropy} is left",
                        peak=f"{case.evidence.attended:.3g}", entropy=f"{case.evidence.entropy:.0%}")  # fmt: skip
            clues.append(Clue(2.0, said))
        if not clues:
            clues.append(Clue(-2.0, tell("its attention logits were of a usual size at the first step")))
        if sharp is False:
            said = tell("its attention's logits stay small ({peak})", peak=f"{case.evidence.attended:.3g}")
            clues.append(Clue(-1.0, said))
        normed = case.tried("qk_norm", "logit_scaling")
        if normed is not None:
            clues.append(
                Clue(2.5, tell("with queries and keys of one size the script learns"))
                if normed
                else Clue(-1.5, tell("queries and keys of one size did not help"))
            )
        return clues


def _is_sharp(seen: Evidence) -> bool | None:
    """Whether attention had come to look at one place when it began; None where it can't be told."""
    if seen.attended is None or seen.entropy is None:
        return None
    if seen.attended > LOGIT and seen.entropy < ENTROPY:
        return True
    return None if seen.attended > USUAL else False


LOGIT, USUAL = 50.0, 10.0  # a lead of 50 is a probability of e^-50 for all others
ENTROPY = 0.3  # of what its keys allow
