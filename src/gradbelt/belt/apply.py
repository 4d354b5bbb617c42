"""Action -> what became of the gradients. The only place in gradbelt that changes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from gradbelt import kernels
from gradbelt._types import Action, Clamp, Keep, Measurement, Scale, Skip

if TYPE_CHECKING:
    from torch import Tensor


def apply(action: Action, parameters: Sequence[Tensor], seen: Measurement, *, scale: float = 1.0) -> Measurement:
    """Carries the action out on the gradients and answers what they measure now. Skip is carried out by `withhold`."""
    match action:
        case Keep() | Skip():
            return seen
        case Scale(coefficient):
            kernels.scale_(gradients_of(parameters), coefficient)
            return replace(seen, norm=seen.norm * coefficient, total=seen.total * coefficient)
        case Clamp(limit):
            gradients = gradients_of(parameters)
            kernels.clamp_(gradients, limit * scale)
            norm = kernels.read(gradients) / scale
            return replace(seen, norm=norm, total=kernels.total(norm))
        case _:
            assert_never(action)


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [gradient for parameter in parameters if (gradient := parameter.grad) is not None]


def withhold(parameters: Sequence[Tensor]) -> Callable[[], None]:
    """Takes the gradients away, so that the optimizer leaves these parameters alone; the answer puts them back.

    With `grad=None` every stock optimizer skips a parameter: value, moments and step counter stay as they are. Zeroed
    gradients would still move it through momentum and weight decay.
    """
    held = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in held:
        parameter.grad = None

    def give_back() -> None:
        for parameter, gradient in held:
            if parameter.grad is None:
                parameter.grad = gradient

    return give_back
