"""What the autograd graph behind losses shows of how they were made: recurrence, skips, a sum in place of a mean.

One walk each, through nodes on the host; no tensor is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

MOST = 100_000  # nodes of a graph that are looked at
NEAR = 400  # operations back from a sum in which its skip must begin
SUM = 2  # torch's number for reduction="sum"
SAME = ("T", "Transpose", "Permute", "View", "Reshape", "Unsqueeze", "Squeeze", "Expand", "ToCopy")
"""Nodes through which a matrix is still itself."""
PRODUCTS = ("Mm", "Addmm", "Bmm", "Baddbmm", "Mv", "Dot", "Linear", "Convolution")


def unrolled(losses: Sequence[Tensor]) -> int:
    """The largest number of products with one and the same matrix that lie on a single path of the graph.

    An RNN unrolled over 200 steps has 200, a plain net 1, one that is called for each row of a batch 1 as well. 0 where
    there is no graph, or one of more than MOST nodes.

    >>> import torch
    >>> weight, h = torch.eye(3, requires_grad=True), torch.ones(2, 3)
    >>> for _ in range(5):
    ...     h = torch.tanh(h @ weight)
    >>> unrolled([h.sum()]), unrolled([sum((torch.ones(2, 3) @ weight).sum() for _ in range(5))])
    (5, 1)
    >>> into = torch.eye(3, requires_grad=True)
    >>> for _ in range(5):
    ...     h = torch.tanh(torch.ones(2, 3) @ into + h @ weight)
    >>> unrolled([h.sum()])
    10
    """
    order = _children_first(losses)
    applied = {node: matrix for node in order if node.name().startswith(PRODUCTS) and (matrix := _matrix(node))}
    found = 0
    for matrix, times in Counter(applied.values()).most_common():
        if times <= found:
            break
        # one that reads the inputs is applied as often as the one that leads on, side by side
        longest: dict[Any, int] = {}
        for node in order:
            behind = max((longest.get(child, 0) for child in children(node)), default=0)
            longest[node] = behind + (applied.get(node) == matrix)
        found = max(found, *longest.values())
    return found


def most_used(losses: Sequence[Tensor]) -> int:
    """How often the learnt matrix that is used most is used, in a row or side by side.

    >>> import torch
    >>> weight = torch.eye(3, requires_grad=True)
    >>> most_used([sum((torch.ones(2, 3) @ weight).sum() for _ in range(5))])
    5
    """
    ends = (child for node in _children_first(losses) for child in children(node) if hasattr(child, "variable"))
    return max(Counter(end for end in ends if end.variable.dim() >= 2).values(), default=0)


def num_skips(losses: Sequence[Tensor]) -> int:
    """How many sums have one side that was made from the other.

    >>> import torch
    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> h = x * 2
    >>> num_skips([(h + torch.tanh(h)).sum()]), num_skips([(x.exp() + x.tanh()).sum()])
    (1, 0)
    """
    found = 0
    for node in _children_first(losses):
        sides = children(node) if node.name().startswith("AddBackward") else []
        if len(sides) == 2:
            found += sides[0] in behind(sides[1]) or sides[1] in behind(sides[0])
    return found


def summed(loss: Tensor) -> int:
    """How many numbers a loss adds up without dividing by their number; 0 where it is no sum.

    >>> import torch
    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> summed(8 * x.sum()), summed(x.mean()), summed(torch.nn.functional.mse_loss(x, x.detach(), reduction="sum"))
    (6, 0, 6)
    """
    node: Any = getattr(loss, "_gradbelt_unscaled", loss).grad_fn or loss.grad_fn
    while node is not None and node.name().startswith("MulBackward") and len(children(node)) == 1:
        node = children(node)[0]  # a factor, of a loss scaler for one
    if node is None:
        return 0
    if getattr(node, "_saved_reduction", None) == SUM and isinstance(getattr(node, "_saved_self", None), Tensor):
        return int(node._saved_self.numel())
    if node.name().startswith("SumBackward"):
        return math.prod(getattr(node, "_saved_self_sym_sizes", ()))
    return 0


def behind(start: Any, most: int = NEAR) -> set[Any]:
    """The nodes that lead to one, the nearest first, at most so many."""
    seen, todo = {start}, [start]
    while todo and len(seen) < most:
        for child in children(todo.pop(0)):
            if child not in seen:
                seen.add(child)
                todo.append(child)
    return seen - {start}


def children(node: Any) -> list[Any]:
    """The nodes that made what a node was given."""
    return [child for child, _ in node.next_functions if child is not None]


def _children_first(losses: Sequence[Tensor]) -> list[Any]:
    """All nodes of the graph, each after those that it leads to; none where there are more than MOST."""
    order: list[Any] = []
    seen: set[Any] = set()
    todo = [(loss.grad_fn, False) for loss in losses if loss.grad_fn is not None]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            if len(seen) > MOST:
                return []
            todo.append((node, True))
            todo += [(child, False) for child in children(node) if child not in seen]
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
