"""What the tensors of a call hold: which there are, whether all of it is finite, how large it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def flat(tree: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and dicts."""
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from flat(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from flat(branch)
    else:
        yield tree


def tensors(tree: Any) -> Iterator[Tensor]:
    """Those of them that hold numbers which can be nan or inf."""
    for leaf in flat(tree):
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and not leaf.is_meta:
            yield leaf


def numbers(tensor: Tensor) -> Tensor:
    """Its values, outside of any graph; of a sparse one those that are stored."""
    values = tensor.detach() if tensor.requires_grad else tensor
    return values.coalesce().values() if values.is_sparse else values


def badness(tensor: Tensor) -> str | None:
    """ "nan" if any element is, else "inf" if any is, else None. One pass over numbers that are finite."""
    values = numbers(tensor)
    if not values.numel():
        return None
    total = values.sum().item()
    if math.isfinite(total.real) and math.isfinite(total.imag):
        return None
    if bool(torch.isfinite(values).all()):  # it is the sum alone that overflows
        return None
    return "nan" if bool(torch.isnan(values).any()) else "inf"


def worst(given: Iterable[Tensor]) -> str | None:
    """The worst of several: nan before inf before None."""
    found = None
    for tensor in given:
        bad = badness(tensor)
        if bad == "nan":
            return bad
        found = bad or found
    return found


def masks_only(tensor: Tensor) -> bool:
    """Whether all of it that is not finite is -inf."""
    values = numbers(tensor)
    return not values.is_complex() and bool((torch.isfinite(values) | torch.isneginf(values)).all())


def is_mask(tensor: Tensor) -> bool:
    """Whether it is an additive mask: zeros and -inf.

    >>> is_mask(torch.tensor([0.0, -torch.inf])), is_mask(torch.tensor([0.3, -torch.inf]))
    (True, False)
    """
    values = numbers(tensor)
    return not values.is_complex() and bool(((values == 0) | torch.isneginf(values)).all())


def extent(given: Iterable[Tensor]) -> tuple[float | None, float | None]:
    """The smallest and the largest absolute value among finite elements."""
    low, high = math.inf, -math.inf
    for tensor in given:
        sizes = numbers(tensor).abs().double()
        sizes = sizes[torch.isfinite(sizes)]
        if sizes.numel():
            low, high = min(low, float(sizes.min())), max(high, float(sizes.max()))
    return (None, None) if low > high else (low, high)


def finite_in(func: Any, args: Any, kwargs: Any) -> str | None:
    """The least precision in which an operation is finite on the numbers that it was given: "float32", "float64",
    or "none". None where it can't be told: it draws random numbers, or takes no other precision.

    What was rounded on the way to it stays rounded. Cost: the operation, twice.

    >>> half, single = torch.tensor(300.0, dtype=torch.half), torch.tensor(1e30)
    >>> finite_in(torch.square, (half,), {}), finite_in(torch.square, (single,), {})
    ('float32', 'float64')
    >>> finite_in(torch.log, (torch.tensor(0.0),), {})
    'none'
    """
    if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
        return None
    types = {tensor.dtype for tensor in tensors((args, kwargs))}
    types |= {leaf for leaf in flat((args, kwargs)) if isinstance(leaf, torch.dtype) and leaf.is_floating_point}
    least = min((kind.itemsize for kind in types), default=torch.float64.itemsize)
    for wide in (torch.float32, torch.float64):
        if least < wide.itemsize:
            try:
                made = func(*_widened(args, wide), **_widened(kwargs, wide))
            except Exception:  # not every operation has another precision
                return None
            if worst(tensors(made)) is None:
                return str(wide).removeprefix("torch.")
    return "none"


def _widened(tree: Any, wide: torch.dtype) -> Any:
    """The same with every real floating-point number, and every such type asked for, in that precision."""
    if isinstance(tree, Tensor):
        return tree.to(wide) if tree.is_floating_point() else tree
    if isinstance(tree, torch.dtype):
        return wide if tree.is_floating_point else tree
    if isinstance(tree, dict):
        return {name: _widened(branch, wide) for name, branch in tree.items()}
    return type(tree)(_widened(branch, wide) for branch in tree) if isinstance(tree, tuple | list) else tree


def rms(tensor: Tensor) -> float:
    """Root mean square, computed in float64; 0 of nothing."""
    return float(tensor.detach().double().square().mean().sqrt()) if tensor.numel() else 0.0
