"""Losses -> how often one weight is applied to what came of it before: recurrence, however it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

MOST = 100_000  # nodes of a graph that are looked at
SAME = ("T", "Transpose", "Permute", "View", "Reshape", "Unsqueeze", "Squeeze", "Expand", "ToCopy")
"""Nodes through which a matrix is still itself."""
PRODUCTS = ("Mm", "Addmm", "Bmm", "Baddbmm", "Mv", "Dot", "Linear", "Convolution")


def unrolled(losses: Sequence[Tensor]) -> int:
    """The largest number of products with one and the same matrix that lie on a single path of the graph.

    An RNN unrolled over 200 steps has 200, a plain net 1, one that is called for each row of a batch 1 as well. One
    walk through the graph, on the host; 0 where there is none, or one of more than MOST nodes.

    >>> import torch
    >>> weight, h = torch.eye(3, requires_grad=True), torch.ones(2, 3)
    >>> for _ in range(5):
    ...     h = torch.tanh(h @ weight)
    >>> unrolled([h.sum()]), unrolled([sum((torch.ones(2, 3) @ weight).sum() for _ in range(5))])
    (5, 1)
    """
    order = _children_first(loss.grad_fn for loss in losses if loss.grad_fn is not None)
    applied = {node: matrix for node in order if node.name().startswith(PRODUCTS) and (matrix := _matrix(node))}
    often = Counter(applied.values()).most_common(1)
    if not often or often[0][1] < 2:
        return len(often)
    matrix = often[0][0]
    longest: dict[Any, int] = {}
    for node in order:
        behind = max((longest.get(child, 0) for child, _ in node.next_functions), default=0)
        longest[node] = behind + (applied.get(node) == matrix)
    return max(longest.values())


def _children_first(roots: Iterable[Any]) -> list[Any]:
    """All nodes of the graph, each after those that it leads to; none where there are more than MOST."""
    order: list[Any] = []
    seen: set[Any] = set()
    todo = [(root, False) for root in roots]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            if len(seen) > MOST:
                return []
            todo.append((node, True))
            todo += [(child, False) for child, _ in node.next_functions if child is not None and child not in seen]
    return order


def _matrix(product: Any) -> int | None:
    """The id of the learnt matrix that takes part, seen through what leaves it itself."""
    for node, _ in product.next_functions:
        while node is not None and node.name().startswith(SAME) and len(node.next_functions) == 1:
            node = node.next_functions[0][0]
        variable = getattr(node, "variable", None)
        if variable is not None and variable.dim() >= 2:
            return id(variable)
    return None
