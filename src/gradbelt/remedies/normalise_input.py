"""Inputs of mean zero and deviation one."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, note

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.remedies.standard import Standard
    from gradbelt.supervise.patient import Patient

BOUND = 10.0
WRITTEN = 64  # means that an edit may spell out


@dataclass(frozen=True, slots=True)
class NormaliseInput:
    """What comes in to a layer from the data is standardised, feature by feature, and clamped into [-10, 10].

    Mean and deviation are those of the first thousand rows that were trained on. Applied to whatever else the same
    layer is given: in evaluation, and to what a generator feeds a critic. Data of usual size is left as it is, to the
    bit, and so are whole numbers. Only where the first thing done to the data is a linear, convolution or recurrent
    layer or a matrix product.
    """

    name: ClassVar[str] = "normalise_input"
    invasive: ClassVar[Invasive] = Invasive.DATA
    SOURCE: ClassVar[str] = "LeCun et al. 1998, Efficient BackProp, section 4.3"
    EDIT: ClassVar[str] = "x = (x - mean) / std, with mean and std of the training rows"

    def fit(self, patient: Patient) -> None:
        import torch

        from gradbelt.remedies.standard import Standard

        deeds = patient.deeds(
            self.name, otherwise="the inputs are of usual size, or are no numbers on a scale", soon=True
        )
        by_line: dict[str, dict[int, Standard]] = {}
        known: dict[int, tuple[weakref.ref[Tensor], Standard | None]] = {}

        def enter(call: Call) -> Any:
            found = doors.at_weight(call)
            if found is None:
                return call.run()
            place, data, weight = found
            held = known.get(id(weight))
            if held is None or held[0]() is not weight:
                if not torch.is_grad_enabled() or data.requires_grad or not data.numel():
                    return call.run()
                first = Standard(data, axis_of(call, data))
                held = known[id(weight)] = (weakref.ref(weight), None if first.usual else first)
            elif held[1] is not None and torch.is_grad_enabled() and not data.requires_grad:
                held[1].see(data)
            if held[1] is None:
                return call.run()
            note(deeds, "inputs standardised", call, data)
            by_line.setdefault(call.where or "", {})[id(held[1])] = held[1]
            return call.put(place, held[1].apply(data).clamp(-BOUND, BOUND))

        def tell() -> None:
            for where, standards in by_line.items():
                numbers = [standard.constants() for standard in standards.values()]
                if len(numbers) == 1 and len(numbers[0]["mean"]) <= WRITTEN:
                    deeds.facts["inputs standardised", where].update(numbers[0])

        intercept(patient, dict.fromkeys(doors.WEIGHTS, enter))
        patient.at_end.append(tell)


def axis_of(call: Call, data: Tensor) -> int | None:
    """Where the features lie: the channels of a convolution, else the last dimension."""
    if data.dim() < 2:
        return None
    if call.name in doors.CONVOLUTIONS:
        return data.dim() - 1 - int(call.name[-2])
    return data.dim() - 1
