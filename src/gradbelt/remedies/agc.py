"""Clip each unit's gradient against its own weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt._types import Action, History, Measurement
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class Agc:
    """The gradient of each unit has at most `value` times the norm of the unit's weights.

    For nets without normalisation, convolutional ones above all: needs no scale of the loss. The last layer and what is
    named as a head are left alone, as its authors do; a model of one layer is all head.
    """

    value: float = 0.01

    name: ClassVar[str] = "agc"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    SOURCE: ClassVar[str] = "Brock et al. 2021, arXiv 2102.06171"
    EDIT: ClassVar[str] = "gradbelt.fasten(model, optimizer, clip=gradbelt.clip.AGC({value}))"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise="no unit's gradient was that large")
        patient.belt.rules.append(_ButTheHead(self.value, deeds))


@dataclass(frozen=True, slots=True)
class _ButTheHead:
    """AGC with the last layer's name among those left alone; a rule of the belt."""

    ratio: float
    did: Callable[[str], None]
    name: ClassVar[str] = "agc"
    SOURCE: ClassVar[str] = "gradbelt.remedies.agc"

    def decide(self, seen: Measurement, history: History) -> Action:
        from gradbelt._types import ClipUnits
        from gradbelt.clip.agc import AGC, HEADS

        layer = seen.names[-1].rpartition(".")[0] if seen.names else ""
        action = AGC(self.ratio, exclude=(*HEADS, f"{layer}.*") if layer else HEADS).decide(seen, history)
        if isinstance(action, ClipUnits):
            self.did("units bounded")
        return action
