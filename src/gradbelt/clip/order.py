"""p-norms of groups of gradients, and what is known of them from L2 norms alone."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradbelt._types import Action, Bound, ClipGroups, Floats, Keep, Measurement, ScaleEach
from gradbelt.clip.rule import MARGIN, STEP, as_kept
from gradbelt.errors import UsageError

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Groups of gradients by their positions; none is empty, and no position is in two. Made by `parted`."""

    groups: tuple[tuple[int, ...], ...]
    flat: Positions  # the positions of all groups, one group after the other
    sizes: Positions
    starts: Positions  # where each group begins in `flat`


@functools.lru_cache(maxsize=64)
def parted(groups: tuple[tuple[int, ...], ...]) -> Partition:
    """A partition made of these groups; the same at every step, so it is made once."""
    sizes = np.array([len(group) for group in groups], dtype=np.intp)
    flat = np.array([index for group in groups for index in group], dtype=np.intp)
    return Partition(groups, flat, sizes, np.cumsum(sizes) - sizes)


@functools.lru_cache(maxsize=64)
def one(count: int) -> Partition:
    """All gradients in one group."""
    return parted((tuple(range(count)),) if count else ())


@functools.lru_cache(maxsize=64)
def singles(count: int) -> Partition:
    """Each gradient a group."""
    return parted(tuple((index,) for index in range(count)))


def order(p: float, what: str) -> float:
    """`p` as a float; UsageError unless a p-norm can have it: a number above 0, or inf.

    >>> order(1, "Norm's p")
    1.0
    """
    if isinstance(p, int | float | np.number) and not isinstance(p, bool) and p > 0.0:  # NaN is not
        return float(p)
    raise UsageError(
        f"{what} is {p!r}: the order of a norm is a number above 0, such as 2 (the length of the gradient), 1 (the sum "
        "of its magnitudes) or inf (the largest of them)."
    )


def together(norms: Floats, p: float, parts: Partition) -> Floats:
    """The p-norm of each group, from those of its gradients. Shape (G,); finite norms never make an inf.

    >>> together(np.array([3.0, 4.0, 7.0]), 2.0, parted(((0, 1), (2,)))).tolist()
    [5.0, 7.0]
    """
    flat = norms[parts.flat]
    if len(flat) == len(parts.groups):
        return flat
    largest: Floats = np.maximum.reduceat(flat, parts.starts)
    if p == np.inf:
        return largest
    by = np.where(largest > 0.0, largest, 1.0)
    with np.errstate(over="ignore", under="ignore"):
        sums = np.add.reduceat((flat / np.repeat(by, parts.sizes)) ** p, parts.starts)
        return np.minimum(largest * sums ** (1.0 / p), sys.float_info.max)


def groups_down_to(limit: float, p: float, parts: Partition, seen: Measurement) -> Action:
    """The p-norm of each group is at most `limit`, to float32's precision: Keep where L2 norms show that all are."""
    totals = together(as_kept(seen.norm), 2.0, parts)
    if p == 2.0:
        above = ~(totals <= limit * STEP)
        if not above.any():
            return Keep()
        factors = np.ones(len(totals))
        factors[above] = limit / totals[above]
        coefficients = np.ones(len(seen.norm))
        coefficients[parts.flat] = np.repeat(factors, parts.sizes)
        return ScaleEach(tuple(coefficients.tolist()))
    # from 2 on a p-norm is at most the L2 norm; below, it can be above by a power of the number of elements
    above = ~(totals * MARGIN <= limit) if p > 2.0 else (totals > 0.0) & (limit < np.inf)
    bounds = tuple(Bound(limit, p, parts.groups[index]) for index in np.flatnonzero(above).tolist())
    return ClipGroups(bounds) if bounds else Keep()
