"""The child process: the script, with the belt, the remedies and the tracer put on it. Not a command a user calls."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gradbelt._types import Level, Verdict
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.plan import Plan

if TYPE_CHECKING:
    from gradbelt.examine.trace import Tracer


def main() -> None:
    plan = Plan.take()
    if plan.door is not None:
        from gradbelt.supervise.snapshots import loaded

        plan = loaded(plan.door)
    patient = Patient(plan, warn=_say)
    told: set[str] = set()

    def announce(verdict: Verdict) -> None:
        for finding in verdict:
            if finding.level is Level.ALARM and not told:
                from gradbelt.report import render_live

                told.add(finding.kind)
                _say(render_live(finding, plan.lang))

    patient.announce = None if plan.quiet else announce
    patient.equip = Equip(patient)
    script = None
    if plan.check is not None:
        from gradbelt.examine.look import Looker  # imports torch

        os.dup2(2, 1)  # a check's own stdout is what was found; the script's goes beside it
        looker = Looker(patient, stop=True)
        script = looker.factory(plan.script) if plan.check == "factory" else None
    sys.exit(patient.run(script))


class Equip:
    """Puts on a patient what a plan asks for; a second plan, of a patient that was woken, on top of the first."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._tracer: Tracer | None = None

    def __call__(self, plan: Plan) -> None:
        if plan.remedies:
            from gradbelt import remedies

            for text in plan.remedies:
                for remedy in remedies.parse(text):
                    self._patient.at_torch.append(remedy.fit)
            if plan.settled is not None:
                self._patient.end_if_idle({remedy.name for remedy in remedies.parse(plan.remedies[-1])})
        if plan.still:
            from gradbelt.examine.others import Others

            self._patient.at_torch.append(Others(plan.trace_from or 0, plan.trace_step or 0).fit)
        if self._tracer is not None:
            self._tracer.aim(None if plan.still else plan.trace_step, plan.trace_from)
        elif plan.trace_step is not None:
            from gradbelt.examine.trace import Tracer

            self._tracer = Tracer(self._patient, plan.trace_step, plan.trace_from)


def _say(line: str) -> None:
    print(line if line.startswith("gradbelt:") else f"gradbelt: {line}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
