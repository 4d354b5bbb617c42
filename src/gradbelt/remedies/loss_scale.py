"""A smaller scale of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise.calls import Call, Way, intercept
from gradbelt.supervise.sites import here

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient

FACTOR = "_gradbelt_factor"
UNSCALED: tuple[float, str | None, list[Way]] = (1.0, None, [])


@dataclass(frozen=True, slots=True)
class LossScale:
    """What the loss is multiplied by for half precision is at most `value` at the start.

    A GradScaler begins there and goes on by itself. A script that multiplies by hand gets a backward pass that much
    smaller, by a power of two, and its gradients back at the old size when the optimizer reads them. Runs without any
    scale are left alone.
    """

    value: float = 1024.0

    name: ClassVar[str] = "loss_scale"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    SOURCE: ClassVar[str] = "Micikevicius et al. 2018, arXiv 1710.03740, section 3.2"
    EDIT: ClassVar[str] = "GradScaler(init_scale={value}), or a fixed scale of {value}"

    def fit(self, patient: Patient) -> None:
        import torch

        deeds = patient.deeds(self.name, otherwise=f"the loss is not scaled by more than {self.value:g}", soon=True)
        back = 1.0  # what the gradients of the step to come are to be multiplied by

        def multiplied(call: Call) -> Any:
            product = call.run()
            number = next((arg for arg in call.args if isinstance(arg, int | float)), None)
            if number is not None and isinstance(product, torch.Tensor) and product.numel() == 1:
                setattr(product, FACTOR, (float(number), call.where, call.ways(number)))
            return product

        def shrink(losses: Sequence[Tensor]) -> None:
            nonlocal back
            scale, where, ways = getattr(losses[0], FACTOR, UNSCALED) if len(losses) == 1 else UNSCALED
            if scale > self.value and losses[0].requires_grad:
                back = 2.0 ** math.ceil(math.log2(scale / self.value))
                losses[0].register_hook(lambda gradient, by=back: gradient / by)  # type: ignore[no-untyped-call]
                what = f"a loss scaled by {scale:g} scaled by {scale / back:g}"
                deeds(what, where)
                deeds.facts[what, where or ""] = {"ways": ways, "old": scale, "new": scale / back}

        def restore(parameters: Sequence[Tensor]) -> None:
            nonlocal back
            for parameter in parameters if back != 1.0 else ():
                if parameter.grad is not None:
                    parameter.grad.mul_(back)
            back = 1.0

        scaler = torch.amp.GradScaler
        original = scaler.__init__

        def begin_lower(made: Any, *args: Any, **kwargs: Any) -> None:
            original(made, *args, **kwargs)
            if made.is_enabled() and made._init_scale > self.value:
                made._init_scale = float(self.value)
                deeds("a GradScaler began lower", here())

        scaler.__init__ = begin_lower  # type: ignore[method-assign,assignment]
        patient.around.callback(setattr, scaler, "__init__", original)
        intercept(patient, dict.fromkeys(("mul", "multiply", "__rmul__"), multiplied))
        patient.at_backward.append(shrink)
        patient.belt.ready.append(restore)
