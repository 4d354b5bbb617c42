"""A larger epsilon in Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class HigherEps:
    """The epsilon in the denominator of Adam and its relatives is at least `value`.

    Bounds the step of a coordinate whose second moment is close to zero: sparse gradients, long calm stretches, half
    precision. Never lowers an epsilon that the script set.
    """

    value: float = 1e-6

    name: ClassVar[str] = "higher_eps"
    invasive: ClassVar[Invasive] = Invasive.OPTIMIZER
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980; Wortsman et al. 2023, arXiv 2309.14322, section 3.4"
    EDIT: ClassVar[str] = "eps={value} in the optimizer"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise=f"no optimizer has an eps below {self.value:g}", soon=True)

        def raise_eps(optimizer: Optimizer) -> None:
            for group in optimizer.param_groups:
                if isinstance(group.get("eps"), float) and group["eps"] < self.value:
                    group["eps"] = self.value
                    deeds("eps raised")

        patient.at_optimizer.append(raise_eps)
