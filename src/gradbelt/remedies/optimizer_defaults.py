"""The optimizer's own default constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class OptimizerDefaults:
    """Decay rates and epsilons go back to what the optimizer's class gives when nothing is asked for.

    Leaves alone what is a choice of the task: learning rate, momentum, weight decay.
    """

    name: ClassVar[str] = "optimizer_defaults"
    invasive: ClassVar[Invasive] = Invasive.OPTIMIZER
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980: betas 0.9 and 0.999, eps 1e-8"
    EDIT: ClassVar[str] = "leave betas and eps of the optimizer at their defaults"

    def fit(self, patient: Patient) -> None:
        from gradbelt.examine.facts import unusual

        deeds = patient.deeds(self.name, otherwise="every optimizer has the defaults of its class", soon=True)

        def reset(optimizer: Optimizer) -> None:
            for name, (_, default) in unusual(optimizer).items():
                deeds(f"{name} put back")
                for group in optimizer.param_groups:
                    group[name] = default

        patient.at_optimizer.append(reset)
