"""Numbers beside the weights that were finite and are no more: buffers of modules, states of optimizers.

A batch norm that saw one infinite activation has a running variance of inf: training goes on as if nothing were, for
it uses the batch's own, and every evaluation is nan. An Adam whose second moment is inf never moves that weight again.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
from torch import Tensor, nn

from gradbelt._types import StepRecord
from gradbelt.belt.judge import SPOILT
from gradbelt.supervise.names import named_parameters, roots

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY = 100  # steps from one look to the next, and one after the last


class Spoilt:
    """Looks at a patient's buffers and optimizer states now and then, and notes the first that is no longer finite.

    A buffer that holds nan or inf at the first look does so on purpose: an additive mask of -inf often is one.
    """

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._sound: set[str] = set()
        self._found = False
        self._roots: list[tuple[str, weakref.ref[nn.Module]]] = []
        self._search = 0.0  # the call from which on modules are searched for anew: it takes as long as many a step
        patient.at_step.append(self._stepped)
        patient.at_end.append(lambda: self._look(math.inf))

    def _stepped(self, row: StepRecord) -> None:
        if row.call % EVERY == 0 and not row.bad:
            self._look(row.call)

    def _look(self, call: float) -> None:
        if call >= self._search:
            self._roots = [(name, weakref.ref(root)) for name, root in roots()]
            self._search = max(EVERY, 2 * call)
        held = dict(self._held())
        if not held:
            return
        with torch.no_grad():
            peaks = torch._foreach_norm([each.detach() for each in held.values()], float("inf"))
            # on one device, so that there is one wait
            finite = torch.stack([peak.isfinite().to(peaks[0].device) for peak in peaks]).tolist()
        for (name, tensor), sound in zip(held.items(), finite, strict=True):
            if sound:
                self._sound.add(name)
            elif name in self._sound and not self._found:
                self._found = True  # it spreads: the first is the one that tells
                kind = "nan" if bool(tensor.isnan().any()) else "inf"
                self._patient.event(SPOILT, f"{name} is {kind}", where=name, number=kind)

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        """The floating-point numbers beside the weights, by name."""
        alive = [(name, root) for name, of in self._roots if (root := of()) is not None]
        for name, root in alive:
            for path, buffer in root.named_buffers():
                if _readable(buffer):
                    yield ".".join(part for part in (name, path) if part), buffer
        names = {id(parameter): name for name, parameter in named_parameters(alive)}
        for optimizer in self._patient.seams.optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items() if isinstance(state, dict) else ():
                    if _readable(value):
                        name = f"{key} of {names.get(id(parameter), 'a parameter')}"
                        self._sound.add(name)  # every optimizer starts from finite numbers
                        yield name, value


def _readable(value: object) -> TypeGuard[Tensor]:
    """A whole tensor of this process that a norm can be taken of: not sparse, not a shard, not of eight bits."""
    if type(value) not in (Tensor, nn.Parameter):
        return False
    tensor = cast(Tensor, value)
    whole = tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.numel() > 0
    return whole and tensor.dtype in NUMBERS
