"""The losses between two steps of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gradbelt.belt.beside import Number, mean

if TYPE_CHECKING:
    from torch import Tensor


class Losses:
    """Name -> the losses noted since the last step, averaged when it comes: accumulation gives one step several."""

    def __init__(self) -> None:
        self._noted: dict[str, list[Number]] = {}
        self._left_out: Mapping[str, Sequence[Number]] = {}

    def note(self, loss: Tensor, where: str) -> None:
        """Adds one; of a loss that has several elements, their mean. Doesn't wait for a device."""
        value = loss.detach() if loss.numel() == 1 else loss.detach().float().mean()
        # its number as of now: the script may go on to divide the loss in place
        self._noted.setdefault(where, []).append(float(value) if value.device.type == "cpu" else value.clone())

    def take(self) -> Mapping[str, Sequence[Number]]:
        """What was noted, for the step that takes place now; it belongs to that and is forgotten."""
        taken, self._noted, self._left_out = self._noted, {}, {}
        return taken

    def leave_out(self, taken: Mapping[str, Sequence[Number]] | None = None) -> None:
        """The step does not take place: what was noted, or was taken for it, is no part of the next one."""
        self._left_out = self.take() if taken is None else taken

    def pending(self) -> dict[str, float]:
        """What a run that ended now would leave: the losses of a step that never came, or was left out."""
        return {
            where: mean([float(value) for value in values])
            for where, values in {**self._left_out, **self._noted}.items()
        }
