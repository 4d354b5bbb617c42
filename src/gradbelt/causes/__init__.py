"""One file a cause: what speaks for it and what against.

Evidence is weighed in nats (log-likelihood ratios, capped), added to the cause's prior and normalised over all causes.
What a trial showed outweighs what was observed: a cause is an experiment, not a keyword. Priors and weights follow
research on controlled faults; they are expert-set and meant to be refitted.

To add a cause: write `causes/my.py` with a frozen dataclass that has `name`, `prior`, `cures` and `weigh(case)`, and
name it in CAUSES.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradbelt._types import Suspicion
from gradbelt.causes.accumulation_bug import AccumulationBug
from gradbelt.causes.activation import Activation
from gradbelt.causes.attention_logits import AttentionLogits
from gradbelt.causes.case import Case as Case
from gradbelt.causes.case import Cause as Cause
from gradbelt.causes.case import Clue as Clue
from gradbelt.causes.data_outlier import DataOutlier
from gradbelt.causes.depth import Depth
from gradbelt.causes.hardware import Hardware
from gradbelt.causes.init import Init
from gradbelt.causes.learning_rate import LearningRate
from gradbelt.causes.loss_scale_bug import LossScaleBug
from gradbelt.causes.low_precision import LowPrecision
from gradbelt.causes.missing_norm import MissingNorm
from gradbelt.causes.numeric_op import NumericOp
from gradbelt.causes.optimizer_state import OptimizerState
from gradbelt.causes.recurrence import Recurrence
from gradbelt.causes.residual_scaling import ResidualScaling
from gradbelt.causes.sequence_length import SequenceLength
from gradbelt.causes.unnormalised_data import UnnormalisedData

CAUSES: tuple[Cause, ...] = (
    LearningRate(), Init(), Depth(), Recurrence(), UnnormalisedData(), DataOutlier(), NumericOp(), LowPrecision(),
    AccumulationBug(), OptimizerState(), LossScaleBug(), Activation(), MissingNorm(), ResidualScaling(),
    AttentionLogits(), SequenceLength(), Hardware(),
)  # fmt: skip

FAINT = 0.03  # confidence below which a cause is not worth a reader's time
CAP = 8.0  # nats; no amount of evidence makes a cause certain


def suspect(case: Case, causes: Sequence[Cause] = CAUSES, *, faint: float = FAINT) -> tuple[Suspicion, ...]:
    """The causes of a case, most likely first, without those below `faint`. Confidences add up to at most one."""
    weighed = [(cause, cause.weigh(case)) for cause in causes]
    scores = [math.log(cause.prior) + max(-CAP, min(CAP, sum(clue.nats for clue in clues))) for cause, clues in weighed]
    top = max(scores)
    total = sum(math.exp(score - top) for score in scores)
    found = [
        Suspicion(
            cause=cause.name,
            confidence=math.exp(score - top) / total,
            evidence=tuple(clue.sentence for clue in sorted(clues, key=lambda c: -c.nats) if clue.nats > 0),
            against=tuple(clue.sentence for clue in sorted(clues, key=lambda c: c.nats) if clue.nats < 0),
        )
        for (cause, clues), score in zip(weighed, scores, strict=True)
    ]
    return tuple(sorted((s for s in found if s.confidence >= faint), key=lambda s: -s.confidence))
