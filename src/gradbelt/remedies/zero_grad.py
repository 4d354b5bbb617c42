"""Clear old gradients before new ones are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class ZeroGrad:
    """Gradients that an optimizer has already used are cleared before the next backward adds to them.

    Accumulation over several backward passes before one step is left alone, and so is a script that clears by itself.
    """

    name: ClassVar[str] = "zero_grad"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "PyTorch: gradients accumulate by design"
    EDIT: ClassVar[str] = "optimizer.zero_grad() before loss.backward()"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise="the script clears its gradients by itself", soon=True)
        used: dict[int, tuple[Tensor, Tensor]] = {}

        def after_step(optimizer: Optimizer) -> None:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        used[id(parameter)] = (parameter, parameter.grad)

        def clear(_losses: Sequence[Tensor]) -> None:
            for parameter, gradient in used.values():
                if parameter.grad is gradient and bool((gradient.detach() != 0).any()):
                    parameter.grad = None
                    deeds("used gradients cleared")
            used.clear()

        patient.belt.before.append(lambda optimizer, _step: lambda: after_step(optimizer))
        patient.at_backward.append(clear)
