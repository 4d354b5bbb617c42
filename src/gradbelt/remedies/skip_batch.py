"""Leave out batches that are outliers themselves."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt._types import Action, History, Keep, Measurement, Skip, StepRecord
from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, learns, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradbelt.supervise.patient import Patient

BEFORE = 5  # batches seen before one is judged
WINDOW = 100
STREAK = 10  # refusals in a row after which the level is taken to have moved


@dataclass(slots=True)
class _Peaks:
    """The largest numbers of the batches accepted so far, by the door they came in at."""

    multiple: float
    accepted: list[float] = field(default_factory=list)
    refused: int = 0
    largest: float = 0.0  # ever accepted
    smallest: float = math.inf  # ever refused
    limits: list[float] = field(default_factory=list)  # as they stood when one was refused

    def outlying(self, peak: float) -> bool:
        usual = statistics.median(self.accepted) if len(self.accepted) >= BEFORE else 0.0
        strange = not math.isfinite(peak) or 0 < self.multiple * usual < peak
        self.refused = self.refused + 1 if strange else 0
        if self.refused > STREAK and math.isfinite(peak):
            self.accepted.clear()
            strange = False
        if not strange:
            self.accepted = [*self.accepted[1 - WINDOW :], peak]
            self.largest = max(self.largest, peak)
        else:
            self.smallest = min(self.smallest, math.inf if math.isnan(peak) else peak)
            self.limits.append(self.multiple * usual)
        return strange

    def between(self) -> float | None:
        """A round number above all that was accepted and below all that was refused; None where there is none."""
        wanted = max(self.limits)
        if not self.largest < wanted < self.smallest:
            wanted = math.sqrt(self.largest * self.smallest) if math.isfinite(self.smallest) else 2 * self.largest
        rounded = (float(f"{wanted:.{digits}g}") for digits in (1, 2, 3))
        return next((limit for limit in rounded if self.largest < limit < self.smallest), None)


@dataclass(slots=True)
class _Flag:
    """Whether the step to come is one to leave out; a rule of the belt."""

    raised: bool = False
    name: ClassVar[str] = "skip_batch"
    SOURCE: ClassVar[str] = "gradbelt.remedies.skip_batch"

    def decide(self, seen: Measurement, history: History) -> Action:
        return Skip("batch") if self.raised else Keep()


@dataclass(frozen=True, slots=True)
class SkipBatch:
    """A step is left out when the batch it learns from holds a nan, an inf, or a number above `value` times the usual
    largest.

    Judged by the data alone: inputs where they meet a weight, targets where they meet a loss; the usual is the median
    over the batches accepted before, five at least. Parameters, moments and step counters stay as they were; running
    statistics of batch normalisation do not.
    """

    value: float = 10.0

    name: ClassVar[str] = "skip_batch"
    invasive: ClassVar[Invasive] = Invasive.DATA
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, section 5.1"
    EDIT: ClassVar[str] = "if x.abs().max() < limit: optimizer.step(); or such rows dropped from the data"

    def fit(self, patient: Patient) -> None:
        deeds = patient.deeds(self.name, otherwise="no batch held an outlier")
        peaks: dict[object, _Peaks] = {}
        by_line: dict[str, dict[object, _Peaks]] = {}
        flag = _Flag()
        guarded: list[bool] = []

        def enter(call: Call) -> Any:
            found = doors.at_weight(call)
            if found is not None:
                look(call, found[1], id(found[2]))
            return call.run()

        def aim(call: Call) -> Any:
            found = doors.at_loss(call)
            if found is not None:
                look(call, found[1], call.where)
            return call.run()

        def look(call: Call, data: Tensor, key: object) -> None:
            if not learns(call.args) or data.requires_grad or not data.numel():
                return
            if peaks.setdefault(key, _Peaks(self.value)).outlying(float(data.abs().max())):
                flag.raised = True
                note(deeds, "batch left out", call, data)
                by_line.setdefault(call.where or "", {})[key] = peaks[key]

        def tell() -> None:
            for where, found in by_line.items():
                if len(found) == 1:
                    deeds.facts["batch left out", where]["limit"] = next(iter(found.values())).between()

        def ready(_parameters: Sequence[Tensor]) -> None:
            if flag.raised and not guarded:
                guarded.append(patient.belt.guard)
                patient.belt.guard = True  # a gradient that is not finite reaches no rule

        def stepped(_row: StepRecord) -> None:
            flag.raised = False
            if guarded:
                patient.belt.guard = guarded.pop()

        aims = dict.fromkeys((*doors.LOSSES, *doors.DIFFERENCES), aim)
        intercept(patient, {**dict.fromkeys(doors.WEIGHTS, enter), **aims})
        patient.belt.rules.insert(0, flag)
        patient.belt.ready.append(ready)
        patient.at_step.append(stepped)
        patient.at_end.append(tell)
