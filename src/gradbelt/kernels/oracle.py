"""The same answers as `foreach`, slow and obvious: Python loops over float64 numbers.

Nothing here is fast, in place, or clever. When the two disagree, this one is right.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats


def numbers(tensor: Tensor) -> list[float]:
    """Every stored number of a gradient; a complex element counts as two, duplicate sparse entries as their sum."""
    if tensor.layout is torch.sparse_coo:
        summed: dict[tuple[int, ...], list[float]] = {}
        for where, values in zip(tensor._indices().t().tolist(), tensor._values(), strict=True):
            here = summed.setdefault(tuple(where), [0.0] * len(numbers(values)))
            summed[tuple(where)] = [x + y for x, y in zip(here, numbers(values), strict=True)]
        return [x for where in sorted(summed) for x in summed[where]]
    stored = tensor if tensor.layout is torch.strided else tensor.values()
    flat = stored.detach().reshape(-1)
    if flat.is_complex():
        return [part for z in flat.to(torch.complex128).tolist() for part in (z.real, z.imag)]
    return [float(x) for x in flat.to(torch.float64).tolist()]


def norm(values: Sequence[float]) -> float:
    """L2 norm; nan if anything is nan, else inf if anything is inf.

    >>> norm([1e200] * 4)
    2e+200
    """
    if any(math.isnan(x) for x in values):
        return math.nan
    largest = max((abs(x) for x in values), default=0.0)
    if largest in (0.0, math.inf):
        return largest
    return largest * math.sqrt(math.fsum((x / largest) ** 2 for x in values))


def magnitudes(tensor: Tensor) -> list[float]:
    """|x| of every stored element: a complex one counts once, duplicate sparse entries as their sum."""
    values = numbers(tensor)
    return [math.hypot(*pair) for pair in zip(values[::2], values[1::2], strict=True)] if tensor.is_complex() else [
        abs(x) for x in values
    ]  # fmt: skip


def norm_p(sizes: Sequence[float], p: float) -> float:
    """p-norm of magnitudes, by logarithms.

    >>> norm_p([1e200, 1e200], 1), norm_p([3.0, 4.0], math.inf)
    (2e+200, 4.0)
    """
    largest = max(sizes, default=0.0)
    if largest == 0.0 or p == math.inf:
        return largest
    power = math.fsum(math.exp(p * (math.log(x) - math.log(largest))) for x in sizes if x > 0.0)
    level = math.log(power) / p
    return min(largest * math.exp(level), sys.float_info.max) if level < 700.0 else sys.float_info.max


def clipped_by_group(
    tensors: Sequence[Tensor], groups: Sequence[Sequence[int]], limit: float, p: float
) -> list[list[float]]:
    """What holding the p-norm of each group to `limit` should leave of every gradient, before rounding."""
    left = [numbers(tensor) for tensor in tensors]
    for group in groups:
        total = norm_p([size for index in group for size in magnitudes(tensors[index])], p)
        for index in group if total > limit else ():
            left[index] = [x * (limit / total) for x in left[index]]
    return left


def rms_of_update(
    gradient: Sequence[float], square: Sequence[float], most: Sequence[float], beta2: float, eps: float, step: float
) -> float:
    """Root of the mean of g^2 / max(v, eps^2) over numbers, v the second moment with g in it, or its maximum yet."""
    total_ = 0.0
    for g, before, highest in zip(gradient, square, most, strict=True):
        v = max(beta2 * before + (1.0 - beta2) * g * g, highest) / (1.0 - beta2**step)
        total_ += g * g / max(v, eps * eps)
    return math.sqrt(total_ / len(gradient)) if gradient else 0.0


def read(tensors: Sequence[Tensor]) -> Floats:
    """L2 norm of each gradient. Shape (P,), float64."""
    return np.array([norm(numbers(tensor)) for tensor in tensors], dtype=np.float64)


def peak(values: Sequence[float]) -> float:
    """Largest magnitude; nan if anything is nan, 0 where there is nothing."""
    return math.nan if any(math.isnan(x) for x in values) else max((abs(x) for x in values), default=0.0)


def zeros(values: Sequence[float]) -> float:
    """Share of exact zeros; 0 where there is nothing.

    >>> zeros([0.0, -0.0, 1e-300, math.nan])
    0.5
    """
    return sum(x == 0.0 for x in values) / max(len(values), 1)


def total(norms: Floats) -> float:
    """L2 norm over all gradients, from their norms."""
    return norm([float(x) for x in norms])


def what_is_bad(tensors: Sequence[Tensor]) -> dict[int, str]:
    """Index -> "inf" if any number is inf, else "nan" if any is nan."""
    bad = {}
    for index, tensor in enumerate(tensors):
        values = numbers(tensor)
        if any(math.isinf(x) for x in values):
            bad[index] = "inf"
        elif any(math.isnan(x) for x in values):
            bad[index] = "nan"
    return bad


def scaled(tensor: Tensor, coefficient: float) -> list[float]:
    """What `scale_` should leave behind, before rounding to the tensor's own dtype."""
    return [x * coefficient for x in numbers(tensor)]


def units(tensor: Tensor) -> list[list[float]]:
    """The numbers of each unit: the rows of a matrix, the filters of a convolution, all of a vector."""
    return [numbers(row) for row in tensor] if tensor.dim() > 1 else [numbers(tensor)]


def clipped_by_unit(weight: Tensor, gradient: Tensor, ratio: float, floor: float) -> list[float]:
    """What `clip_units_` should leave behind, before rounding to the gradient's own dtype."""
    left: list[float] = []
    for mine, numbers_ in zip(units(weight), units(gradient), strict=True):
        limit, size = ratio * max(norm(mine), floor), norm(numbers_)
        left += [x * (limit / size if size > limit else 1.0) for x in numbers_]
    return left


def clamped(tensor: Tensor, limit: float) -> list[float]:
    """What `clamp_` should leave behind; nan stays nan."""
    return [x if math.isnan(x) else min(max(x, -limit), limit) for x in numbers(tensor)]
