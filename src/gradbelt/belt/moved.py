"""How far an update moves the weights: a few numbers of each matrix before it, against the same ones after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats
from gradbelt.kernels import shards

NUMBERS = 256  # of a matrix, about


@dataclass(frozen=True, slots=True)
class Change:
    """Of N matrices among P parameters: what was added to the numbers, and the numbers before; on their devices."""

    places: list[int]
    tensors: list[Tensor]  # 2 N: all differences, then all that was before

    def ratios(self, norms: Floats, parameters: int) -> Floats | None:
        """(P,) norm of the difference over that of the numbers; nan where there is none. None where nothing moved.

        Args:
            norms: (2 N,) L2 norms of `tensors`.

        >>> Change([0, 2], []).ratios(np.array([0.1, 3.0, 2.0, 0.0]), 3).tolist()
        [0.05, nan, nan]
        """
        found = np.full(parameters, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[self.places] = norms[: len(self.places)] / norms[len(self.places) :]
        found[~np.isfinite(found)] = np.nan
        return found if np.any(found > 0.0) else None


class Moved:
    """Keeps those numbers from one step of an optimizer to its next."""

    def __init__(self) -> None:
        self._taken: dict[int, tuple[tuple[int, ...], list[int], list[Tensor]]] = {}

    def take(self, index: int, parameters: Sequence[Tensor]) -> None:
        """Before a step: copies of the numbers it is going to change. Of no parameters: forgets what was taken."""
        places = [i for i, each in enumerate(parameters) if _is_matrix(each)]
        taken = [each.clone() for each in _numbers(parameters, places)]
        self._taken[index] = tuple(map(id, parameters)), places, taken

    def since(self, index: int, parameters: Sequence[Tensor]) -> Change | None:
        """Before the next one: what has become of them. None where none were taken, or of other parameters."""
        ids, places, before = self._taken.get(index, ((), [], []))
        if not places or ids != tuple(map(id, parameters)):
            return None
        with torch.no_grad():
            return Change(places, [*torch._foreach_sub(_numbers(parameters, places), before), *before])


def _numbers(parameters: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    """At an odd stride, so that it is not the same column over and over."""
    flat = [parameters[i].detach().view(-1) for i in places]
    return [each[:: each.numel() // NUMBERS | 1] for each in flat]


def _is_matrix(parameter: Tensor) -> bool:
    """Biases and the weights of norms are left out: many start at zero, against which every update is large."""
    return (
        parameter.dim() > 1
        and not shards.is_sharded(parameter)
        and parameter.is_floating_point()
        and parameter.layout is torch.strided
        and parameter.is_contiguous()
        and parameter.device.type != "meta"
    )
