"""Clip every element of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class ClipValue:
    """Clamps every element of the gradient into [-value, value].

    Bends the direction, which clip_norm does not; worth it where a few coordinates are wild. Turns inf into the bound.
    """

    value: float = 0.5

    name: ClassVar[str] = "clip_value"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    SOURCE: ClassVar[str] = "Mikolov 2012 (thesis); Graves 2013, arXiv 1308.0850"
    EDIT: ClassVar[str] = "torch.nn.utils.clip_grad_value_(model.parameters(), {value}) before optimizer.step()"

    def fit(self, patient: Patient) -> None:
        from gradbelt.clip import Value

        patient.belt.rules.append(Value(self.value))
