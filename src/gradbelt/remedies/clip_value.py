"""Clip every element of the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class ClipValue:
    """Clamps every element of the gradient into [-value, value].

    Bends the direction, which clip_norm does not; worth it where a few coordinates are wild. Turns inf into the bound.
    """

    value: float = 0.5

    name: ClassVar[str] = "clip_value"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Mikolov 2012 (thesis); Graves 2013, arXiv 1308.0850"
    EDIT: ClassVar[str] = "torch.nn.utils.clip_grad_value_(model.parameters(), {value}) before optimizer.step()"

    def fit(self, patient: Patient) -> None:
        import torch

        from gradbelt.clip import Value

        def bound(parameters: Sequence[Tensor]) -> None:
            # the belt shows a rule finite gradients only; clamping an inf is what torch's function does all the same
            for parameter in parameters:
                gradient = parameter.grad
                if gradient is not None:
                    values = gradient._values() if gradient.is_sparse else gradient
                    torch.nan_to_num_(values, nan=math.nan, posinf=self.value, neginf=-self.value)

        patient.belt.ready.append(bound)
        patient.belt.rules.append(Value(self.value))
