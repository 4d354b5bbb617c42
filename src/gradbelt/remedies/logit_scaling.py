"""Logits that stay within a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import replace
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient

WHAT = "logits bounded"


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """In the loss, logits of a sample whose largest one exceeds `value` are scaled down together until it doesn't.

    Smaller ones stay bit for bit. For output logits that start far too large or grow without end. Their order stays and
    so does a slope, which a cap by tanh loses where it is needed most. Acts on cross_entropy,
    binary_cross_entropy_with_logits and log_softmax, as functions and as modules.
    """

    value: float = 30.0

    name: ClassVar[str] = "logit_scaling"
    invasive: ClassVar[Invasive] = Invasive.NUMERICS
    SOURCE: ClassVar[str] = (
        "min(1, c / max) as in QK-clip, Kimi K2, arXiv 2507.20534; c = 30 as the cap of Gemma 2, arXiv 2408.00118"
    )
    EDIT: ClassVar[str] = "logits * ({value} / logits.detach().abs().amax(-1, keepdim=True)).clamp(max=1) in the loss"

    def fit(self, patient: Patient) -> None:
        import torch
        from torch.nn import functional

        from gradbelt.supervise.sites import here

        deeds = patient.deeds(self.name, otherwise="no loss that takes logits", soon=True)

        def within(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            logits = args[0] if args else kwargs["input"]
            where = here()
            deeds(WHAT, where)
            facts = deeds.facts.setdefault((WHAT, where or ""), {"dims": logits.dim()})
            facts["dims"] = logits.dim() if facts["dims"] == logits.dim() else None
            if args:
                return original(self.bounded(logits), *args[1:], **kwargs)
            return original(**{**kwargs, "input": self.bounded(logits)})

        for name in ("cross_entropy", "binary_cross_entropy_with_logits", "log_softmax"):
            replace(patient, functional, name, within)
        replace(patient, torch, "log_softmax", within)

    def bounded(self, logits: Tensor) -> Tensor:
        """Sample by sample, the first dimension's; the factor is a constant to backward."""
        sizes = logits.detach().abs()
        largest = sizes.amax(tuple(range(1, logits.dim())), keepdim=True) if logits.dim() > 1 else sizes.amax()
        return logits * (self.value / largest).clamp(max=1.0)
