"""The losses between two steps of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Losses:
    """Name -> the losses noted since the last step, averaged when it comes: accumulation gives one step several."""

    def __init__(self) -> None:
        self._noted: dict[str, list[float | Tensor]] = {}
        self._left_out: dict[str, float] = {}

    def note(self, loss: Tensor, where: str) -> None:
        """Adds one; of a loss that has several elements, their mean. Doesn't wait for a device."""
        value = loss.detach() if loss.numel() == 1 else loss.detach().float().mean()
        # on CPU the number itself: the script may go on to divide the loss in place
        self._noted.setdefault(where, []).append(float(value) if value.device.type == "cpu" else value)

    def settle(self) -> dict[str, float]:
        """The means for the step that takes place now; what was noted belongs to it and is forgotten."""
        self._left_out = {}
        return self._means()

    def leave_out(self) -> None:
        """The step does not take place: what was noted is no part of the next one."""
        self._left_out = self._means()

    def pending(self) -> dict[str, float]:
        """What a run that ended now would leave: the losses of a step that never came, or was left out."""
        return {**self._left_out, **self._means()}

    def _means(self) -> dict[str, float]:
        means = {where: _mean([float(value) for value in values]) for where, values in self._noted.items()}
        self._noted.clear()
        return means


def _mean(values: Sequence[float]) -> float:
    # fsum raises on inf - inf, where sum says nan as the script's own arithmetic would
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values)
