"""Gradients against their own second moments: how large Adam's update is going to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats
from gradbelt.kernels import shards
from gradbelt.kernels.foreach import fetch, numbers

BATCH = 2**24  # numbers whose updates are worked out at a time: what they need beside the gradients stays bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A gradient, and what an optimizer of Adam's kind is about to divide it by."""

    gradient: Tensor
    square: Tensor | None  # running average of squares before this step; None before the first
    most: Tensor | None  # amsgrad's maximum of those; None without
    weight: Tensor  # the parameter,
    decay: float  # and what times it is added to the gradient before all else (not AdamW's decay)
    beta2: float
    eps: float
    step: float  # this one, from 1


def rms_of_updates(moments: Sequence[Moment], scale: float = 1.0) -> Floats:
    """sqrt(mean(g^2 / max(v, eps^2))) of each gradient, v its second moment with g in it, without bias. Shape (P,).

    `scale` is what the gradients are still multiplied by. Real and imaginary parts are numbers of their own, as they
    are to Adam; of a sparse gradient the rows that are there count, as for SparseAdam. 0 for an empty one. In float32,
    as Adam itself works (float64 for float64); waits for the device once, and once more for shards.

    >>> usual, jump = torch.full((4,), 0.1), torch.full((4,), 1.0)
    >>> more = {"most": None, "weight": jump, "decay": 0.0, "beta2": 0.99, "eps": 1e-8, "step": 900}
    >>> rms_of_updates([Moment(gradient=jump, square=usual**2, **more)]).round(2).tolist()
    [7.09]
    """
    norms: Floats = np.zeros(len(moments))
    counts = np.ones(len(moments))
    with torch.no_grad():
        order: list[int] = []
        pieces: list[Tensor] = []
        for where in _batches(moments):
            ratios = _ratios([moments[index] for index in where], scale)
            wide = torch.float32 if ratios[0].device.type == "mps" else torch.float64
            pieces.append(torch.stack(list(torch._foreach_norm(ratios, 2, dtype=wide))))
            order += where
            counts[where] = [ratio.numel() for ratio in ratios]
        if order:
            norms[order] = fetch(pieces)
        gradients = [moment.gradient for moment in moments]
        if any(map(shards.is_sharded, gradients)):
            norms = shards.powers_over_ranks(gradients, norms, 2.0)
            counts = np.array(
                [g.numel() if shards.is_sharded(g) else n for g, n in zip(gradients, counts, strict=True)]
            )
    return norms / np.sqrt(np.maximum(counts, 1.0))


def _batches(moments: Sequence[Moment]) -> Iterator[list[int]]:
    """Positions of moments that one call can work on: alike in all but their numbers, and not too many of these."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, moment in enumerate(moments):
        of = moment.gradient
        key = (of.device, of.dtype, moment.square is None, moment.most is None, moment.decay, moment.beta2, moment.eps,
               moment.step)  # fmt: skip
        alike.setdefault(key, []).append(index)
    for where in alike.values():
        batch: list[int] = []
        size = 0
        for index in where:
            if batch and size > BATCH:
                yield batch
                batch, size = [], 0
            batch.append(index)
            size += moments[index].gradient.numel()
        yield batch


def _ratios(same: Sequence[Moment], scale: float) -> list[Tensor]:
    """g / max(sqrt(v), eps) of gradients that are alike."""
    one = same[0]
    gradients = [_wide(numbers(moment.gradient)) for moment in same]
    if scale != 1.0:
        gradients = list(torch._foreach_div(gradients, scale))
    if one.decay:
        weights = [_wide(numbers(moment.weight.detach())) for moment in same]
        gradients = list(torch._foreach_add(gradients, weights, alpha=one.decay))
    if one.square is None:
        squares = [torch.zeros_like(gradient) for gradient in gradients]
    else:
        squares = list(torch._foreach_mul([_like(moment.square, moment.gradient) for moment in same], one.beta2))
    torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - one.beta2)
    if one.most is not None:
        squares = list(torch._foreach_maximum(squares, [_like(moment.most, moment.gradient) for moment in same]))
    torch._foreach_div_(squares, 1.0 - one.beta2**one.step)
    torch._foreach_sqrt_(squares)
    # not of the squares: eps^2 can be too small for the dtype; nor by zero: 0 / 0 is no calm number
    torch._foreach_clamp_min_(squares, max(one.eps, torch.finfo(squares[0].dtype).tiny))
    return list(torch._foreach_div(gradients, squares))


def _like(square: Tensor | None, gradient: Tensor) -> Tensor:
    """The numbers of a moment that belong to those of its gradient: all, or the rows that a sparse one has."""
    assert square is not None
    if gradient.layout is torch.sparse_coo:
        return _wide(numbers(square.sparse_mask(gradient.coalesce())))
    return _wide(numbers(square))


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
