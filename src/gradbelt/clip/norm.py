"""Clip the gradient as a whole: one factor for every parameter, so its direction stays."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import ClassVar

from gradbelt._types import Action, History, Keep, Measurement, Scale
from gradbelt.clip.rule import Example, measured, refuse, threshold
from gradbelt.errors import UsageError


@dataclass(frozen=True)
class Norm:
    """The total L2 norm is at most `max_norm`; above it every gradient is multiplied by max_norm / total.

    Use it first. It keeps the gradient's direction, and 1.0 is what most transformers train with; PPO uses 0.5, LSTM
    language models 0.25 to 10. The right value depends on the loss's scale and the number of parameters: somewhat above
    the typical norm, so that 1 to 15 % of the steps are clipped. Clipping every step is normalised gradient descent.

    The belt measures L2 norms, so `p` can only be 2; other p-norms raise UsageError rather than be guessed, and
    `gradbelt.clip_grad_norm_` takes them all. One limit for each parameter is `Each`, for groups by name `Groups`.

    Unlike torch's formula there is no 1e-6 in the denominator, so the norm after is max_norm itself, and a gradient
    whose norm equals max_norm stays as it is, to the bit. Raises UsageError unless max_norm is above 0.

    >>> from gradbelt._types import History
    >>> from gradbelt.clip.rule import measured
    >>> Norm(1.0).decide(measured(3.0, 4.0), History())
    Scale(coefficient=0.2)
    >>> Norm(5.0).decide(measured(3.0, 4.0), History())
    Keep()
    """

    max_norm: float
    p: InitVar[float] = 2.0
    name: ClassVar[str] = "norm"
    SOURCE: ClassVar[str] = (
        "Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks, ICML 2013, arXiv:1211.5063"
    )

    def __post_init__(self, p: float) -> None:
        if p != 2.0:
            raise UsageError(
                f"Norm's p is {p!r}, but the belt reads only L2 norms. clip.Value(limit) bounds the largest element; "
                f"gradbelt.clip_grad_norm_(parameters, {self.max_norm}, norm_type={p!r}) before the step takes any p."
            )
        object.__setattr__(self, "max_norm", threshold(self.max_norm, "Norm's max_norm"))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history  # a fixed threshold has no memory
        if not seen.finite:
            return refuse(seen)
        if seen.total <= self.max_norm:
            return Keep()
        return Scale(self.max_norm / seen.total)


CALM = (
    Example(rule=Norm(1.0), seen=measured(0.6, 0.8)),
    Example(rule=Norm(1.0), seen=measured(0.0, 0.0)),
    Example(rule=Norm(float("inf")), seen=measured(1e200)),
)
SICK = (Example(rule=Norm(1.0), seen=measured(3.0, 4.0)), Example(rule=Norm(1e-8), seen=measured(1e30)))
