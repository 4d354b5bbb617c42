"""Is the graph behind a loss let go of? Seen on the graph itself, so memory need not be measured."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

COUNTED = (4, 8, 16, 32)  # losses of one call site whose operations are counted
GROWN = 1.5  # times the operations at the count before, at each of them
MOST = 10_000  # operations that are counted
MARKED = 50  # losses whose graphs are followed
LATER = 100  # the loss at which it is looked which of these are left
_KEY = "gradbelt"


class Graphs:
    """Follows the losses of one call site: how many operations lie behind them, and which of them still exist.

    A mark is laid into the metadata of a loss's last operation. It dies with the operation, so a mark that lives says
    that something holds the loss or what was made of it.
    """

    def __init__(self) -> None:
        self._losses = 0
        self._counts: list[int] = []
        self._marks: list[weakref.ref[_Mark]] = []

    def saw(self, loss: Tensor) -> tuple[str, dict[str, Any]] | None:
        """A loss whose backward pass comes next; the misfit that is certain by now, or None."""
        node = loss.grad_fn
        if node is None:
            return None
        number, self._losses = self._losses, self._losses + 1
        if number < MARKED:
            mark = _Mark()
            metadata: Any = node.metadata  # a property that torch declares as a method
            metadata[_KEY] = mark
            self._marks.append(weakref.ref(mark))
        if number in COUNTED:
            self._counts.append(operations(loss))
            if number == COUNTED[-1] and all(
                GROWN * before <= now < MOST for before, now in zip(self._counts, self._counts[1:], strict=False)
            ):
                return "graph_grows", {
                    "before": self._counts[0], "early": COUNTED[0], "now": self._counts[-1], "late": number
                }  # fmt: skip
        if number == LATER and all(mark() is not None for mark in self._marks):
            return "graphs_kept", {"count": MARKED, "late": LATER}
        return None


class _Mark:
    __slots__ = ("__weakref__",)


def operations(loss: Tensor, most: int = MOST) -> int:
    """Operations in the graph behind a loss, counted up to `most`.

    >>> w = torch.ones(2, requires_grad=True)
    >>> operations((w * 2).sum())  # mul, sum, and the place where the gradient of w is added up
    3
    """
    seen: set[torch.autograd.graph.Node] = set()
    todo = [loss.grad_fn]
    while todo and len(seen) < most:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(after for after, _ in node.next_functions)
    return len(seen)
