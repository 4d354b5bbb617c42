"""A second moment that forgets faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class LowerBeta2:
    """Adam's second moment forgets at least as fast as with `value`.

    A long memory underestimates a gradient that starts to grow, and the steps are too long for 1 / (1 - beta2) steps.
    Never raises a beta2 that the script set, and leaves the first moment alone.
    """

    value: float = 0.95

    name: ClassVar[str] = "lower_beta2"
    invasive: ClassVar[Invasive] = Invasive.OPTIMIZER
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Wortsman et al. 2023, arXiv 2304.13013; Zhang et al. 2022 (OPT), arXiv 2205.01068"
    EDIT: ClassVar[str] = "betas=(..., {value}) in the optimizer"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise=f"no optimizer has a beta2 above {self.value:g}", soon=True)

        def lower(optimizer: Optimizer) -> None:
            for group in optimizer.param_groups:
                betas = group.get("betas")
                if isinstance(betas, tuple | list) and len(betas) > 1 and betas[1] > self.value:
                    group["betas"] = (betas[0], self.value, *betas[2:])
                    deeds("beta2 lowered")

        patient.at_optimizer.append(lower)
