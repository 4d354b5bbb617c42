"""Put zero where a gradient is nan or inf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class ZeroNan:
    """Every element of a gradient that is not finite becomes zero; the finite ones are used.

    Keeps more of a step than skip_step does, and steps along what is left of a direction.
    """

    name: ClassVar[str] = "zero_nan"
    invasive: ClassVar[Invasive] = Invasive.NUMERICS
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "optax.zero_nans"
    EDIT: ClassVar[str] = (
        "torch.nan_to_num_(p.grad, nan=0.0, posinf=0.0, neginf=0.0) for every p before optimizer.step()"
    )

    def fit(self, patient: Patient) -> None:
        import torch

        def clean(parameters: Sequence[Tensor]) -> None:
            for parameter in parameters:
                gradient = parameter.grad
                if gradient is not None:
                    values = gradient._values() if gradient.is_sparse else gradient
                    torch.nan_to_num_(values, nan=0.0, posinf=0.0, neginf=0.0)

        patient.belt.ready.append(clean)
