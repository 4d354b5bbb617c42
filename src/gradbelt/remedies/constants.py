"""One constant of the optimizer moved: higher_eps, lower_beta2."""

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
    SOURCE: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980; Wortsman et al. 2023, arXiv 2309.14322, section 3.4"
    EDIT: ClassVar[str] = "eps={value} in the optimizer"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise=f"no optimizer has an eps below {self.value:g}")

        def raise_eps(optimizer: Optimizer) -> None:
            for group in optimizer.param_groups:
                if isinstance(group.get("eps"), float) and group["eps"] < self.value:
                    group["eps"] = self.value
                    deeds("eps raised")

        patient.at_optimizer.append(raise_eps)


@dataclass(frozen=True, slots=True)
class LowerBeta2:
    """Adam's second moment forgets at least as fast as with `value`.

    A long memory underestimates a gradient that starts to grow, and the steps are too long for 1 / (1 - beta2) steps.
    Never raises a beta2 that the script set, and leaves the first moment alone.
    """

    value: float = 0.95

    name: ClassVar[str] = "lower_beta2"
    invasive: ClassVar[Invasive] = Invasive.OPTIMIZER
    SOURCE: ClassVar[str] = "Wortsman et al. 2023, arXiv 2304.13013; Zhang et al. 2022 (OPT), arXiv 2205.01068"
    EDIT: ClassVar[str] = "betas=(..., {value}) in the optimizer"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise=f"no optimizer has a beta2 above {self.value:g}")

        def lower(optimizer: Optimizer) -> None:
            for group in optimizer.param_groups:
                betas = group.get("betas")
                if isinstance(betas, tuple | list) and len(betas) > 1 and betas[1] > self.value:
                    group["betas"] = (betas[0], self.value, *betas[2:])
                    deeds("beta2 lowered")

        patient.at_optimizer.append(lower)
