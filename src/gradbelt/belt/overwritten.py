"""Is a nan in the loss written over before anybody sees it? Seen on the graph behind the loss."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

WRITES_OVER = {"NanToNum": "torch.nan_to_num", "Nansum": "torch.nansum or torch.nanmean"}
"""Operations by the name of their node, and what a script calls them."""

MOST = 100  # operations on single numbers that are looked at


def writes_over_nan(loss: Tensor) -> str | None:
    """What of WRITES_OVER was called on the loss, or on what it is the sum or mean of; None where nothing was.

    Followed are operations on single numbers, and one more behind each: what is done within the model is its own.

    >>> import torch
    >>> each = torch.ones(3, requires_grad=True).log()
    >>> writes_over_nan(torch.nan_to_num(each.mean()) / 2), writes_over_nan(torch.nanmean(each))
    ('torch.nan_to_num', 'torch.nansum or torch.nanmean')
    >>> writes_over_nan(torch.nan_to_num(each).sum()), writes_over_nan(torch.nan_to_num(each).exp().sum())
    ('torch.nan_to_num', None)
    """
    seen: set[Any] = set()
    todo: list[Any] = [loss.grad_fn]
    while todo and len(seen) < MOST:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = WRITES_OVER.get(node.name().partition("Backward")[0])
        if kind is not None:
            return kind
        if _is_single(node):
            todo.extend(before for before, _ in node.next_functions)
    return None


def _is_single(node: Any) -> bool:
    """Whether the operation made one number; False where torch does not say."""
    made: Any = getattr(node, "_input_metadata", ())  # a node's inputs are the gradients of what it made
    return len(made) == 1 and math.prod(made[0].shape) == 1
