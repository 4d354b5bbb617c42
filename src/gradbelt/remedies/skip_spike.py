"""Leave out steps whose gradient is far above its recent past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt._types import Action, History, Keep, Measurement, Skip
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient

KNOWN = 5  # accepted steps before a median is one


@dataclass(frozen=True, slots=True)
class _Spike:
    """Skip above `multiple` times the median of the accepted steps; a rule of the belt."""

    multiple: float
    name: ClassVar[str] = "skip_spike"
    SOURCE: ClassVar[str] = "gradbelt.remedies.skip_spike"

    def decide(self, seen: Measurement, history: History) -> Action:
        if history.accepted < KNOWN or history.median is None or seen.total <= self.multiple * history.median:
            return Keep()
        return Skip("spike")


@dataclass(frozen=True, slots=True)
class SkipSpike:
    """A step whose gradient norm exceeds `value` times the median of the steps accepted so far is left out, as is one
    whose gradient is not finite.

    For outlying batches. Skipped norms enter no statistic, so one spike does not make room for the next.
    """

    value: float = 10.0

    name: ClassVar[str] = "skip_spike"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    midway: ClassVar[bool] = True
    INCLUDES: ClassVar[tuple[str, ...]] = ("skip_step",)
    SOURCE: ClassVar[str] = "Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, section 5.1; OLMo 2, arXiv 2501.00656"
    EDIT: ClassVar[str] = "leave out a step whose total gradient norm is above {value} times its running median"

    def fit(self, patient: Patient) -> None:
        patient.belt.guard = True
        patient.belt.rules.append(_Spike(self.value))
