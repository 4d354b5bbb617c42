"""p-norms of groups of gradients, and what is known of them from L2 norms alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from gradbelt._types import Action, Bound, ClipGroups, Floats, Keep, Measurement, ScaleEach
from gradbelt.clip.rule import MARGIN, STEP, as_kept
from gradbelt.errors import UsageError

Partition = Sequence[tuple[int, ...]]
"""Positions of gradients, group by group; none is empty, and no position is in two."""


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


def together(norms: Floats, p: float, groups: Partition) -> Floats:
    """The p-norm of each group, from those of its gradients. Shape (G,); finite norms never make an inf.

    >>> together(np.array([3.0, 4.0, 7.0]), 2.0, [(0, 1), (2,)]).tolist()
    [5.0, 7.0]
    """
    if not groups:
        return np.zeros(0)
    sizes = np.array([len(group) for group in groups])
    flat = norms[np.concatenate([np.array(group) for group in groups])]
    starts = np.cumsum(sizes) - sizes
    largest: Floats = np.maximum.reduceat(flat, starts)
    if p == np.inf or len(flat) == len(groups):
        return largest
    by = np.where(largest > 0.0, largest, 1.0)
    with np.errstate(over="ignore", under="ignore"):
        sums = np.add.reduceat((flat / np.repeat(by, sizes)) ** p, starts)
        return np.minimum(largest * sums ** (1.0 / p), sys.float_info.max)


def groups_down_to(limit: float, p: float, groups: Partition, seen: Measurement) -> Action:
    """The p-norm of each group is at most `limit`, to float32's precision: Keep where L2 norms show that all are."""
    totals = together(as_kept(seen.norm), 2.0, groups)
    if p == 2.0:
        coefficients = np.ones(len(seen.norm))
        for index in np.flatnonzero(~(totals <= limit * STEP)).tolist():
            coefficients[list(groups[index])] = limit / totals[index]
        return ScaleEach(tuple(coefficients.tolist())) if (coefficients < 1.0).any() else Keep()
    # from 2 on a p-norm is at most the L2 norm; below, it can be above by a power of the number of elements
    above = ~(totals * MARGIN <= limit) if p > 2.0 else (totals > 0.0) & (limit < np.inf)
    where = np.flatnonzero(above).tolist()
    return ClipGroups(tuple(Bound(limit, p, groups[index]) for index in where)) if where else Keep()


def one(count: int) -> Partition:
    """All gradients in one group."""
    return [tuple(range(count))] if count else []


def singles(count: int) -> Partition:
    """Each gradient a group."""
    return [(index,) for index in range(count)]
