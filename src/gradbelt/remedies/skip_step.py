"""Leave out steps whose gradient is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


@dataclass(frozen=True, slots=True)
class SkipStep:
    """A step whose gradient holds nan or inf leaves parameters, moments and step counters as they were.

    Cures what is rare: an empty batch, a zero count, a masked row. Hides what is not: when many steps are left out the
    cause is elsewhere.
    """

    name: ClassVar[str] = "skip_step"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "dynamic loss scaling, Micikevicius et al. 2018, arXiv 1710.03740, section 3.2"
    EDIT: ClassVar[str] = "gradbelt.fasten(model, optimizer, clip=None) after the optimizer is made"

    def fit(self, patient: Patient) -> None:
        patient.belt.guard = True
