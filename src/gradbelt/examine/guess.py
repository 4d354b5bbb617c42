"""What a loss would be if the model answered the same to everything: a run that ends no lower has learnt nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradbelt.examine.graph import children

SURE = 2.0  # standard errors by which the scatter of a first batch's targets may lie too low
SCALED = ("MulBackward", "DivBackward")


def _even(given: Tensor, _target: Tensor) -> Tensor:
    return torch.zeros_like(given)


def _even_logarithms(given: Tensor, _target: Tensor) -> Tensor:
    return torch.full_like(given, -math.log(given.shape[1 if given.dim() > 1 else 0]))


def _half(given: Tensor, _target: Tensor) -> Tensor:
    return torch.full_like(given, 0.5)


def _mean(_given: Tensor, target: Tensor) -> Tensor:
    return target.mean(0, keepdim=True).expand_as(target)


CONSTANT: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _even, "binary_cross_entropy_with_logits": _even, "nll_loss": _even_logarithms,
    "binary_cross_entropy": _half,
    "mse_loss": _mean, "l1_loss": _mean, "smooth_l1_loss": _mean, "huber_loss": _mean,
}  # fmt: skip
"""torch's loss -> the answer that knows no input: every class alike, or the mean of the targets."""


class Guesses:
    """What torch's losses would have been for a constant answer, and from these that of a loss made of them.

    Of a regression the scatter of its targets is known from one batch alone, so it is taken as much larger as it may
    be, by SURE standard errors.

    >>> guesses, x = Guesses(), torch.zeros(2, 4, requires_grad=True)
    >>> loss = torch.nn.functional.cross_entropy(x, torch.tensor([0, 3]))
    >>> guesses.note(torch.nn.functional.cross_entropy, (x, torch.tensor([0, 3])), {}, loss)
    >>> round(guesses.of(loss), 4), round(guesses.of(loss + loss), 4), round(guesses.of(loss / 4), 4)
    (1.3863, 2.7726, 0.3466)
    >>> guesses.of(loss + x.square().sum())
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[float, float]] = {}  # node of the graph -> (loss of the guess, loss)

    @torch.no_grad()
    def note(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        """A call of one of torch's losses; `out` is what it answered."""
        others = dict(kwargs)
        given, target = (*args, *(others.pop(side, None) for side in ("input", "target")[len(args) :]))[:2]
        if not isinstance(given, Tensor) or not isinstance(target, Tensor) or out.numel() != 1 or out.grad_fn is None:
            return
        constant = CONSTANT[func.__name__]
        with torch._C.DisableTorchFunction():
            guess = float(func(constant(given.detach(), target), target, *args[2:], **others))
        if constant is _mean:
            rows = len(target) if target.dim() else 1
            guess *= 1 + SURE * math.sqrt(2 / (rows - 1)) if rows > 1 else math.inf
        if math.isfinite(guess):
            self._known[out.grad_fn] = guess, float(out)

    def of(self, loss: Tensor) -> float | None:
        """That of a loss that is one of those noted, a sum of them, or such a one times a number; None of any other."""
        node, scaled = loss.grad_fn, False
        while node not in self._known and node is not None and node.name().startswith(SCALED):
            if len(children(node)) != 1:
                return None
            node, scaled = children(node)[0], True
        guess = value = 0.0
        todo = [node]
        while todo:
            node = todo.pop()
            if node in self._known:
                guess, value = guess + self._known[node][0], value + self._known[node][1]
            elif node is not None and node.name().startswith("AddBackward"):
                todo += children(node)
            else:
                return None
        if not scaled:
            return guess
        factor = float(loss.detach()) / value if value else math.nan
        return guess * factor if math.isfinite(factor) else None
