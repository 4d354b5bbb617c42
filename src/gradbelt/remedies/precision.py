"""Everything in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class Precision:
    """Half precision is turned off: autocast does nothing, and casts to float16 or bfloat16 give float32.

    Shows whether an overflow comes of the number format. float64 is left alone.
    """

    name: ClassVar[str] = "precision"
    invasive: ClassVar[Invasive] = Invasive.NUMERICS
    SOURCE: ClassVar[str] = "Micikevicius et al. 2018, arXiv 1710.03740"
    EDIT: ClassVar[str] = "no .half(), no autocast; or bfloat16, which has float32's range"

    def fit(self, patient: Patient) -> None:
        import torch
        from torch.overrides import TorchFunctionMode

        deeds = patient.deeds(self.name, otherwise="nothing was cast to half precision", soon=True)
        low = {torch.float16, torch.bfloat16}
        to_float = {torch.Tensor.half: torch.Tensor.float, torch.Tensor.bfloat16: torch.Tensor.float}

        def lift(value: Any) -> Any:
            if isinstance(value, torch.dtype) and value in low:
                deeds("half precision left out")
                return torch.float32
            return value

        class Float32(TorchFunctionMode):
            def __torch_function__(
                self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
            ) -> Any:
                if func in to_float:
                    deeds("half precision left out")
                    func = to_float[func]
                return func(*map(lift, args), **{name: lift(value) for name, value in (kwargs or {}).items()})

        patient.enter(Float32())

        autocast = torch.amp.autocast_mode.autocast
        original = autocast.__init__

        def disabled(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if self._enabled:
                deeds("autocast turned off")
            self._enabled = False

        autocast.__init__ = disabled  # type: ignore[method-assign]
        patient.around.callback(setattr, autocast, "__init__", original)
