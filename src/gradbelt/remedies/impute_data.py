"""Numbers in place of holes in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, note

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class ImputeData:
    """A nan or inf among inputs or targets becomes the mean of its column in the batch, zero where there is none.

    Acts where data meets a weight or a loss; a hole that the script has computed with before has spread by then. An
    additive mask, of zeros and -inf, is left alone.
    """

    name: ClassVar[str] = "impute_data"
    invasive: ClassVar[Invasive] = Invasive.DATA
    SOURCE: ClassVar[str] = "Little and Rubin 2002, Statistical Analysis with Missing Data, section 4.2"
    EDIT: ClassVar[str] = "x = torch.where(x.isfinite(), x, x.nanmean(0)) before the model"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise="no nan or inf came in with the data")

        def door(call: Call) -> Any:
            weights = call.name in doors.WEIGHTS
            entered = doors.at_weight(call) if weights else doors.at_loss(call)
            if entered is None or entered[1].requires_grad:
                return call.run()
            full = filled(entered[1])
            if full is entered[1]:
                return call.run()
            note(deeds, "inputs filled" if weights else "targets filled", call, entered[1], dims=entered[1].dim())
            return call.put(entered[0], full)

        intercept(patient, dict.fromkeys((*doors.WEIGHTS, *doors.LOSSES, *doors.DIFFERENCES), door))


def filled(data: Tensor) -> Tensor:
    """The data itself where all of it is finite, else a copy with means in the holes.

    >>> import torch
    >>> filled(torch.tensor([[1.0, float("inf")], [3.0, 5.0], [float("nan"), 7.0]])).tolist()
    [[1.0, 6.0], [3.0, 5.0], [2.0, 7.0]]
    """
    import torch

    finite = torch.isfinite(data)
    if bool(finite.all()):
        return data
    known = torch.where(finite, data, 0.0)
    if bool(torch.isneginf(data).any()) and not bool(known.any()):
        return data  # a mask
    rows = 0 if data.dim() else ()
    mean = known.sum(rows, keepdim=True) / finite.sum(rows, keepdim=True).clamp_min(1)
    return torch.where(finite, data, mean.expand_as(data))
