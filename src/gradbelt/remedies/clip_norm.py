"""Clip the global L2 norm of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class ClipNorm:
    """Scales the whole gradient down to norm `value` where it is longer; its direction stays.

    First choice for recurrent nets, long sequences, outlying batches and heavy-tailed gradients. Keeps a badly built
    deep net finite without making it learn, and can't help a gradient that is nan.
    """

    value: float = 1.0

    name: ClassVar[str] = "clip_norm"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Pascanu, Mikolov, Bengio 2013, arXiv 1211.5063"
    EDIT: ClassVar[str] = "torch.nn.utils.clip_grad_norm_(model.parameters(), {value}) before optimizer.step()"

    def fit(self, patient: Patient) -> None:
        from gradbelt.clip import Norm

        patient.belt.rules.append(Norm(self.value))
