"""The first bad operation: the one whose inputs were finite, whose output is not, and whose output arrived."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradbelt._types import StepRecord
from gradbelt.examine.batches import Batches
from gradbelt.examine.facts import Facts
from gradbelt.examine.follow import Follow
from gradbelt.supervise.names import named_parameters
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.script import Enough


class Tracer:
    """Follows every operation from the step `healthy` on, and leaves what it finds as an event of the black box.

    An operation that makes inf or nan in the healthy step as well does it on purpose. Until then nothing is slowed
    down; where a snapshot was left before the healthy step, it is for whoever is woken from it to follow. A compiled
    model runs as it was written, for compiled code has no lines.
    """

    def __init__(self, patient: Patient, step: int, healthy: int | None) -> None:
        self._patient, self._step, self._healthy = patient, step, healthy
        self._active = True
        self._modules: list[nn.Module] = []
        self._handles: list[Any] = []
        self._follow: Follow | None = None
        self._held: list[tuple[str, Tensor]] = []  # what may be learnt, as of this step
        self.facts, self.batches = Facts(patient, step), Batches(patient, step)
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # read when the compiler is imported
        if (compiler := sys.modules.get("torch._dynamo")) is not None:
            compiler.config.disable = True
        patient.at_torch.append(self._open)
        patient.at_backward.append(self._losses)
        patient.at_step.append(self._after)
        patient.after_step.append(self._over)
        patient.at_end.append(self._report)

    def aim(self, step: int | None, healthy: int | None) -> None:
        """Follows up to another step, or none: for a patient that was woken."""
        self._active, self._step, self._healthy = step is not None, step or 0, healthy
        self.facts.aim(step)
        self.batches.aim(step)

    def _open(self, _patient: Patient) -> None:
        if self._healthy is None or self._healthy < 1:
            self._begin(rehearsing=self._healthy is not None)

    def _leave(self) -> None:
        if self._modules:
            self._modules.pop()

    def _losses(self, losses: Sequence[Tensor]) -> None:
        self._held.clear()
        if self._follow is not None:
            self._follow.arrived(losses)

    def _after(self, row: StepRecord) -> None:
        """Called when a step was measured, before the optimizer uses it."""
        self._held.clear()
        if self._follow is None:
            return
        if row.step == self._healthy:
            self._follow.begin()
        elif row.bad:
            self._follow.arrived(weight.grad for _, weight in self._weights() if weight.grad is not None)
            self._follow.arrived_unseen()
        elif row.weight is not None and not np.isfinite(row.weight).all():
            self._follow.arrived((weight for _, weight in self._weights()), held=True)

    def _over(self, step: int) -> None:
        """Called when a step is complete."""
        snapshots = self._patient.snapshots
        if self._follow is not None and self._follow.found is not None and step >= self._step:
            raise Enough  # there is no more to see
        if not self._active or self._healthy != step + 1:
            return
        if snapshots is None or step not in snapshots:
            self._begin(rehearsing=True)
        else:  # whoever is woken from there goes on
            self._patient.plan = replace(self._patient.plan, horizon=step + 2)

    def _weights(self) -> list[tuple[str, Tensor]]:
        """All that may be learnt, by name where it has one."""
        if not self._held:
            seams = self._patient.seams
            optimized = [p for each in seams.optimizers for group in each.param_groups for p in group["params"]]
            unnamed = [*optimized, *seams.held_by_hand()]
            self._held += [*((f"parameter {i}", weight) for i, weight in enumerate(unnamed)), *named_parameters()]
        return self._held

    def _begin(self, *, rehearsing: bool) -> None:
        if self._follow is not None:
            return
        module = torch.nn.modules.module
        self._handles = [
            module.register_module_forward_pre_hook(lambda m, _args: self._modules.append(m)),
            module.register_module_forward_hook(lambda _m, _args, _out: self._leave(), always_call=True),
        ]
        self._follow = Follow(self._modules, self._weights, rehearsing=rehearsing)
        self._follow.__enter__()  # type: ignore[no-untyped-call]

    def _report(self) -> None:
        if self._follow is not None:
            self._follow.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        found = self._follow.found if self._follow is not None else None
        element = None if self.batches.element is None else asdict(self.batches.element)
        facts = {**self.facts.gathered(), "element": element}
        self._patient.event("evidence", "measured while running again", origin=found, **facts)
