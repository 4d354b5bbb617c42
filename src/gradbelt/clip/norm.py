"""Clip the gradient as a whole: one factor for every parameter, so its direction stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.order import groups_down_to, one, order
from gradbelt.clip.rule import Example, down_to, measured, refuse, threshold


@dataclass(frozen=True)
class Norm:
    """The total p-norm is at most `max_norm`; above it every gradient is multiplied by max_norm / total.

    Use it first. It keeps the gradient's direction, and 1.0 is what most transformers train with; PPO uses 0.5, LSTM
    language models 0.25 to 10. The right value depends on the loss's scale and the number of parameters: somewhat above
    the typical norm, so that 1 to 15 % of the steps are clipped. Clipping every step is normalised gradient descent,
    and a network whose gradient is always too large needs another learning rate or initialisation, not this.

    p is (sum |g|^p)^(1/p)'s, of all elements together; complex ones count by magnitude. 2 is the length, and what every
    threshold in the literature means. inf bounds the largest element as Value does, but keeps the direction; 1 bounds
    the sum, which grows with the number of parameters. Other than 2 the gradients are read once more, unless p is above
    2 and the L2 norm is within the limit: then all greater p's norms are too. One limit for each parameter is `Each`,
    for each module `Modules`, for groups by name `Groups`.

    Unlike torch's formula there is no 1e-6 in the denominator, so the norm after is max_norm itself, and a gradient
    whose norm equals max_norm stays as it is, to the bit; for other p's so does one that a float32 can't tell from it.
    Raises UsageError unless max_norm and p are above 0.

    >>> from gradbelt._types import History
    >>> from gradbelt.clip.rule import measured
    >>> Norm(1.0).decide(measured(3.0, 4.0), History())
    Scale(coefficient=0.2)
    >>> Norm(5.0).decide(measured(3.0, 4.0), History()), Norm(5.1, p=3).decide(measured(3.0, 4.0), History())
    (Keep(), Keep())
    >>> Norm(5.0, p=1).decide(measured(3.0, 4.0), History())
    ClipGroups(bounds=(Bound(limit=5.0, p=1.0, where=(0, 1)),), others=())
    """

    max_norm: float
    p: float = 2.0
    name: ClassVar[str] = "norm"
    SOURCE: ClassVar[str] = (
        "Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks, ICML 2013, "
        "arXiv:1211.5063; any p as in torch.nn.utils.clip_grad_norm_"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", threshold(self.max_norm, "Norm's max_norm"))
        object.__setattr__(self, "p", order(self.p, "Norm's p"))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history  # a fixed threshold has no memory
        if not seen.finite:
            return refuse(seen)
        if self.p == 2.0:
            return down_to(self.max_norm, seen)
        return groups_down_to(self.max_norm, self.p, one(len(seen.norm)), seen)

    def limit_ahead(self, history: History) -> float | None:
        del history
        return self.max_norm if self.p == 2.0 else None


CALM = (
    Example(rule=Norm(1.0), seen=measured(0.6, 0.8)),
    Example(rule=Norm(1.0), seen=measured(0.0, 0.0)),
    Example(rule=Norm(float("inf")), seen=measured(1e200)),
    Example(rule=Norm(1.0, p=float("inf")), seen=measured(0.5, 0.8)),
    Example(rule=Norm(float("inf"), p=1.0), seen=measured(1e200)),
)
SICK = (
    Example(rule=Norm(1.0), seen=measured(3.0, 4.0)),
    Example(rule=Norm(1e-8), seen=measured(1e30)),
    Example(rule=Norm(1.0, p=1.0), seen=measured(3.0, 4.0)),
    Example(rule=Norm(0.5, p=0.5), seen=measured(0.3, 0.4)),
    Example(rule=Norm(1.0, p=3.0), seen=measured(3.0, 4.0)),
    Example(rule=Norm(1.0, p=float("inf")), seen=measured(30.0, 0.1)),
)
