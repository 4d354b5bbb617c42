"""What the script prints of its loss, held against the losses that backward was called on."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from gradbelt.belt.misfits import misfit
from gradbelt.supervise.output import Heard

if TYPE_CHECKING:
    from gradbelt._types import StepRecord
    from gradbelt.supervise.patient import Patient

BROKEN = 3  # steps in a row without a finite loss, after which a finite one that is printed is none of theirs
LOSS = re.compile(r"(?<![a-z])loss\w*\W{0,4}?([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)\b", re.IGNORECASE)
OTHER = re.compile(r"val|test|best|min|low|init|\bnan\b|\binf\b", re.IGNORECASE)  # another loss, or one that says so


class Printed:
    """Says once that the script prints a finite loss while those of the last steps, all of them, were nan or inf.

    A mean that passes nan over, a `nan_to_num` on what is logged, a value from before: what the script shows is not
    what it learns from, and whoever reads it takes a dead run for a healthy one. Lines on standard output that name a
    loss are looked at, from the BROKEN-th such step on; losses on held-out data, best ones and first ones are not.
    """

    def __init__(self, patient: Patient, output: object) -> None:
        self._patient, self._output = patient, output if isinstance(output, Heard) else None
        self._broken, self._line = 0, ""
        if self._output is not None:
            patient.at_step.append(self._stepped)

    def _stepped(self, row: StepRecord) -> None:
        if not row.losses:
            return
        self._broken = 0 if any(map(math.isfinite, row.losses.values())) else self._broken + 1
        if self._output is not None:
            self._output.hear = self._heard if self._broken >= BROKEN else None
            self._line = self._line if self._broken > BROKEN else ""

    def _heard(self, text: str) -> None:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            found = LOSS.search(line)
            if found is not None and not OTHER.search(line):
                step = self._patient.belt.step
                self._patient.misfit(misfit("nan_not_shown", step, shown=found[1], count=self._broken))
                self._end()
                return

    def _end(self) -> None:
        if self._output is not None:
            self._output.hear, self._output = None, None
