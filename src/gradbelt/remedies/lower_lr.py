"""A lower learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class LowerLr:
    """Every learning rate is multiplied by `value` for the duration of each step; schedules go on as the script set
    them.

    A loop without an optimizer has its gradients multiplied instead, which is the same for plain SGD.
    """

    value: float = 0.1

    name: ClassVar[str] = "lower_lr"
    invasive: ClassVar[Invasive] = Invasive.OPTIMIZER
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Bengio 2012, arXiv 1206.5533"
    EDIT: ClassVar[str] = "lr multiplied by {value}"

    def fit(self, patient: Patient) -> None:
        patient.belt.before.append(lambda optimizer, _step: scale_lr(optimizer, self.value))
        patient.by_hand.append(lambda _step: self.value)


def scale_lr(optimizer: Optimizer, factor: float) -> Callable[[], None]:
    """Multiplies every group's lr; the answer puts the old values back."""
    old = [(group, group["lr"]) for group in optimizer.param_groups if "lr" in group]
    for group, lr in old:
        group["lr"] = lr * factor

    def undo() -> None:
        for group, lr in old:
            group["lr"] = lr

    return undo
