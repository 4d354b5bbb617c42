"""A linear warm-up of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.lower_lr import scale_lr
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class Warmup:
    """Over the first `value` steps the learning rate grows linearly to what the script set.

    Helps when the first steps are the dangerous ones: Adam's second moments are not known yet, and curvature falls
    while the net settles.
    """

    value: float = 100.0

    name: ClassVar[str] = "warmup"
    invasive: ClassVar[Invasive] = Invasive.OPTIMIZER
    SOURCE: ClassVar[str] = "Goyal et al. 2017, arXiv 1706.02677; Ma and Yarats 2019, arXiv 1910.04209"
    EDIT: ClassVar[str] = "torch.optim.lr_scheduler.LinearLR(optimizer, 1 / {value}, total_iters={value})"

    def fit(self, patient: Patient) -> None:
        patient.belt.before.append(lambda optimizer, step: scale_lr(optimizer, self.factor(step)))
        patient.by_hand.append(self.factor)

    def factor(self, step: int) -> float:
        return min(1.0, (step + 1) / self.value)
