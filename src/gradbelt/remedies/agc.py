"""Clip each unit's gradient against its own weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from gradbelt._types import Action, ClipUnits, History, Keep, Measurement
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class Agc:
    """The gradient of each unit has at most `value` times the norm of the unit's weights.

    For nets without normalisation, convolutional ones above all: needs no scale of the loss. The last layer and what is
    named as a head are left alone, as its authors do, and so are sparse gradients; a model of one layer is all head.
    """

    value: float = 0.01

    name: ClassVar[str] = "agc"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Brock et al. 2021, arXiv 2102.06171"
    EDIT: ClassVar[str] = "gradbelt.fasten(model, optimizer, clip=gradbelt.clip.AGC({value}))"

    def fit(self, patient: Patient) -> None:
        import torch

        deeds = patient.deeds(self.name, otherwise="no unit's gradient was that large")
        whole: set[int] = set()

        def look(parameters: Sequence[Tensor]) -> None:
            """Sparse gradients have no units; a rule sees no tensor, so it is told which they are."""
            whole.clear()
            whole.update(i for i, p in enumerate(parameters) if p.grad is not None and p.grad.layout != torch.strided)

        patient.belt.ready.append(look)
        patient.belt.rules.append(_ButTheHead(self.value, whole, deeds))


@dataclass(frozen=True, slots=True)
class _ButTheHead:
    """AGC with the last layer's name among those left alone; a rule of the belt."""

    ratio: float
    whole: set[int]  # parameters, by their place, whose gradient is not to be taken apart
    did: Callable[[str], None]
    name: ClassVar[str] = "agc"
    SOURCE: ClassVar[str] = "gradbelt.remedies.agc"

    def decide(self, seen: Measurement, history: History) -> Action:
        from gradbelt.clip.agc import AGC, HEADS

        last = seen.names[-1] if seen.names else ""
        layer = last.rpartition(".")[0]
        action = AGC(self.ratio, exclude=(*HEADS, f"{layer}.*" if layer else last)).decide(seen, history)
        if not isinstance(action, ClipUnits):
            return action
        where = tuple(clipped and place not in self.whole for place, clipped in enumerate(action.where))
        if not any(where):
            return Keep()
        self.did("units bounded")
        return replace(action, where=where)
