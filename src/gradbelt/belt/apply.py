"""Action -> what became of the gradients. The only place in gradbelt that changes one.

`apply` carries one action out; `act` decides and applies for all of the belt's rules in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, assert_never

import numpy as np

from gradbelt import kernels
from gradbelt._types import (
    Action,
    Clamp,
    ClipGroups,
    ClipUnits,
    ClipUpdate,
    History,
    Keep,
    Measurement,
    Scale,
    ScaleEach,
    Skip,
)
from gradbelt.belt.decide import decide, note
from gradbelt.clip import Rule
from gradbelt.clip.order import parted, together
from gradbelt.clip.rule import STEP, Notes

if TYPE_CHECKING:
    from torch import Tensor

Fold: TypeAlias = Callable[["Sequence[Tensor]", float], bool]
"""Called with the parameters and a coefficient; True if the gradients are multiplied by it without our doing."""

Slow: TypeAlias = Callable[["Sequence[Tensor]", float], bool]
"""Called with the parameters and a limit; True if the update of one of them is held back to it."""


def act(
    rules: Sequence[Rule],
    parameters: Sequence[Tensor],
    seen: Measurement,
    history: History,
    *,
    guard: bool,
    scale: float = 1.0,
    fold: Fold | None = None,
    slow: Slow | None = None,
) -> tuple[Action, Measurement, Notes]:
    """The rules one after the other, each on what the one before it left; a Skip ends it.

    Answers the last action that changed a gradient, what was left, and the rules' notes. What a rule left to a further
    read (ClipGroups) is answered, and noted, as what it came to. Only the last rule's Scale can be left to `fold`: the
    rules before it have others after them that read what they left. Updates are left to `slow`, after all gradients;
    of several limits the lowest counts.
    """
    done: Action = Keep()
    after, notes, limit = seen, Notes(), math.inf
    for place, rule in enumerate(rules or (None,)):
        action = resolved(decide(after, history, rule, guard=guard, place=place), parameters, scale=scale)
        if isinstance(action, Skip):
            return action, after, {}
        notes |= note(after, history, rule, action, place=place)
        if isinstance(action, ClipUpdate):
            limit = min(limit, action.limit)
        last = place + 1 >= len(rules) and limit == math.inf
        left = apply(action, parameters, after, scale=scale, fold=fold if last else None)
        if left is not after:
            after, done = replace(left, peak=None, zeros=None), action  # of gradients that are no longer those
    if limit < math.inf and slow is not None and slow(parameters, limit):
        done = ClipUpdate(limit)
    return done, after, notes


def apply(
    action: Action, parameters: Sequence[Tensor], seen: Measurement, *, scale: float = 1.0, fold: Fold | None = None
) -> Measurement:
    """Carries the action out on the gradients and answers what they measure now: `seen` itself if none was changed.

    `scale` is what the gradients are still multiplied by. Skip is carried out by `withhold`, ClipUpdate by what `act`
    was given for it, and a Scale that `fold` takes over by the optimizer.
    """
    match action:
        case Keep() | Skip() | ClipUpdate():
            return seen
        case Scale(coefficient):
            if fold is None or not fold(parameters, coefficient):
                kernels.scale_(gradients_of(parameters), coefficient)
            return replace(seen, norm=seen.norm * coefficient, total=seen.total * coefficient)
        case ScaleEach(coefficients):
            kernels.scale_each_(gradients_of(parameters), coefficients)
            norm = seen.norm * np.array(coefficients)
            return replace(seen, norm=norm, total=kernels.total(norm))
        case ClipUnits(ratio, floor, where):
            chosen = [parameter for parameter, clipped in zip(parameters, where, strict=True) if clipped]
            gradients = gradients_of(chosen)
            if not kernels.clip_units_([each.detach() for each in chosen], gradients, ratio * scale, floor):
                return seen
            norm = seen.norm.copy()
            norm[np.array(where)] = kernels.read(gradients) / scale
            if np.array_equal(norm, seen.norm):  # sharded, and no rank had anything to scale
                return seen
            return replace(seen, norm=norm, total=kernels.total(norm))
        case ClipGroups():
            return apply(resolved(action, parameters, scale=scale), parameters, seen, scale=scale, fold=fold)
        case Clamp(limit):
            gradients = gradients_of(parameters)
            kernels.clamp_(gradients, limit * scale)
            norm = kernels.read(gradients) / scale
            return replace(seen, norm=norm, total=kernels.total(norm))
        case _:
            assert_never(action)


def resolved(action: Action, parameters: Sequence[Tensor], *, scale: float = 1.0) -> Action:
    """The action itself; of ClipGroups the Scale, ScaleEach or Keep that it comes to, for which gradients are read."""
    if not isinstance(action, ClipGroups):
        return action
    gradients = gradients_of(parameters)
    coefficients = np.array(action.others) if action.others else np.ones(len(gradients))
    for p in sorted({bound.p for bound in action.bounds}):
        bounds = [bound for bound in action.bounds if bound.p == p]
        where = sorted(index for bound in bounds for index in bound.where)
        norms = np.zeros(len(gradients))
        norms[where] = kernels.read_p([gradients[index] for index in where], p) / scale
        totals = together(norms, p, parted(tuple(bound.where for bound in bounds)))
        for bound, total in zip(bounds, totals.tolist(), strict=True):
            if not total <= bound.limit * STEP:
                coefficients[list(bound.where)] = bound.limit / total
    if not (coefficients < 1.0).any():
        return Keep()
    if len(action.bounds) == 1 and len(action.bounds[0].where) == len(gradients):
        return Scale(float(coefficients[0]))
    return ScaleEach(tuple(coefficients.tolist()))


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
