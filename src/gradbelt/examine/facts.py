"""What can be read off a script while it runs again: its layers, its inputs, its optimizer, its hygiene."""

from __future__ import annotations

import inspect
import math
import statistics
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradbelt._types import StepRecord
from gradbelt.examine.batches import BACK
from gradbelt.examine.graph import unrolled
from gradbelt.examine.look import Looker
from gradbelt.supervise.calls import is_transformed
from gradbelt.supervise.patient import Patient

CONSTANTS = ("betas", "eps", "alpha", "rho", "etas", "step_sizes", "lambd", "momentum_decay", "beta2_decay", "d")
"""Constants of optimizers that have a usual value. Learning rate, momentum and weight decay are choices of the task."""


def unusual(optimizer: Optimizer) -> dict[str, tuple[object, object]]:
    """Constants that differ from the class's default: name -> (as set, default).

    >>> unusual(torch.optim.Adam([torch.zeros(1)], betas=(0.999, 0.9)))
    {'betas': ((0.999, 0.9), (0.9, 0.999))}
    """
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(optimizer)).parameters.items()}
    return {
        name: (group[name], defaults[name])
        for group in optimizer.param_groups
        for name in CONSTANTS
        if name in group and name in defaults and group[name] != defaults[name]
    }


class Facts:
    """Gathers on a patient until `step`; `gathered` answers the fields of Evidence, plain values only."""

    def __init__(self, patient: Patient, step: int) -> None:
        self._patient, self._step, self._now = patient, step, 0
        self._looker = Looker(patient, stop=False)
        self._depth = 0
        self._first: weakref.ref[nn.Module] | None = None
        self._runs: dict[int, int] = {}
        self._facts: dict[str, Any] = {}
        self._peaks: dict[int, float] = {}  # step -> largest absolute input
        self._unrolled: dict[int, int] = {}  # step -> time steps of the longest recurrence
        self._kinds: dict[str, set[str]] = {"recurrent": set(), "norms": set(), "half": set()}
        self._hooks: list[Any] = []  # on every module, in the first step and in those before the onset
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._cleared: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._used: weakref.WeakKeyDictionary[Optimizer, Tensor | None] = weakref.WeakKeyDictionary()
        patient.at_torch.append(self._open)
        patient.at_optimizer.append(self._optimizer)
        patient.at_backward.append(self._backward)
        patient.at_step.append(self._stepped)

    def aim(self, step: int | None) -> None:
        """Gathers until another step: for a patient that was woken."""
        self._step = self._step if step is None else step

    def gathered(self) -> dict[str, Any]:
        facts = {**self._facts, **{kind: sorted(names) for kind, names in self._kinds.items()}}
        before = [peak for step, peak in self._peaks.items() if step < self._step and math.isfinite(peak)]
        if self._step in self._peaks and before and statistics.median(before) > 0:
            facts["input_peak"] = self._peaks[self._step] / statistics.median(before)
        if self._unrolled:
            facts["unrolled"] = self._unrolled.get(self._step, self._unrolled[max(self._unrolled)])
        if self._looker.look is not None:
            facts["look"] = asdict(self._looker.look)
        return facts

    # --------------------------------------------------------------------------------------------------------- the
    # model

    def _open(self, _patient: Patient) -> None:
        module = torch.nn.modules.module
        self._hooks = [
            module.register_module_forward_pre_hook(self._before),
            module.register_module_forward_hook(lambda *_: self._after(), always_call=True),
        ]
        self._patient.around.callback(self._unhook)
        self._patient.belt.before.append(self._about_to_step)

    def _before(self, module: nn.Module, args: Any) -> None:
        self._depth += 1
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if self._depth == 1 and self._takes_the_data(module):
            self._input(tensors)
        self._unroll(module, tensors)
        if self._now == 0:
            self._layer(module, tensors)

    def _after(self) -> None:
        self._depth -= 1

    def _unroll(self, module: nn.Module, tensors: Sequence[Tensor]) -> None:
        """Notes how many time steps a recurrent layer is given: sequences may grow while a script runs."""
        if isinstance(module, nn.RNNBase) and tensors and tensors[0].dim() == 3:
            length = tensors[0].shape[1 if module.batch_first else 0]
            self._unrolled[self._now] = max(self._unrolled.get(self._now, 0), length)

    def _unhook(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _narrow(self) -> None:
        """From now on the one module that takes the data is enough, and those that are unrolled."""
        first = self._first or (lambda: None)

        # not on the module itself: scripts copy and save their models, hooks and all
        def given(module: nn.Module, args: Any) -> None:
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            self._unroll(module, tensors)
            if module is first():
                self._input(tensors)

        self._hooks.append(torch.nn.modules.module.register_module_forward_pre_hook(given))

    def _takes_the_data(self, module: nn.Module) -> bool:
        """Whether it is the outermost module that ran first: another one, a critic say, may be fed by it, not by
        data."""
        if self._first is None and next(module.parameters(), None) is not None:  # a loss is a module, and holds none
            self._first = weakref.ref(module)
        return self._first is not None and self._first() is module

    def _input(self, tensors: Sequence[Tensor]) -> None:
        """What the script gives to the model: its rows, and its largest element at the start and before the onset."""
        floats = [t.detach().float() for t in tensors if t.is_floating_point() and t.numel()]
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self._kinds["half"].add("autocast")
        if tensors and "batch" not in self._facts and tensors[0].dim():
            self._facts["batch"] = tensors[0].shape[0]
        if not floats or is_transformed():
            return
        peak = max(float(t.abs().max()) for t in floats)
        self._peaks[self._now] = max(self._peaks.get(self._now, 0.0), peak) if math.isfinite(peak) else math.inf

    def _layer(self, module: nn.Module, tensors: Sequence[Tensor]) -> None:
        """Counts the layers that hold weights, and notes which kinds there are."""
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            self._kinds["recurrent"].add(type(module).__name__)
            if isinstance(module, nn.RNNBase) and tensors and tensors[0].dim() == 3:
                self._facts["sequence"] = tensors[0].shape[1 if module.batch_first else 0]
        if "Norm" in type(module).__name__:
            self._kinds["norms"].add(type(module).__name__)
        if isinstance(module, nn.Tanh | nn.Sigmoid):
            self._facts["saturating"] = True
        own = list(module.parameters(recurse=False))
        self._kinds["half"].update(
            str(p.dtype).removeprefix("torch.") for p in own if p.dtype in (torch.float16, torch.bfloat16)
        )
        if not isinstance(module, nn.Embedding) and any(parameter.dim() >= 2 for parameter in own):
            self._runs[id(module)] = self._runs.get(id(module), 0) + 1

    # ----------------------------------------------------------------------------------------------------- the training

    def _optimizer(self, optimizer: Optimizer) -> None:
        self._optimizers.add(optimizer)
        self._facts.setdefault("optimizer", type(optimizer).__name__)
        for name, (value, default) in unusual(optimizer).items():
            self._facts.setdefault("unusual", {})[name] = f"{value} (default {default})"

    def _backward(self, losses: Sequence[Tensor]) -> None:
        """Notes for each optimizer whether its gradients had been cleared when this backward began; in the first step,
        how often the script applies one matrix."""
        if self._now == 0:
            self._facts["repeats"] = max(self._facts.get("repeats", 0), unrolled(losses))
        if self._patient.plan.passes(self._patient.belt.step):
            return
        for optimizer in self._optimizers:
            first = _first_gradient(optimizer)
            if first is None or not bool((first.detach() != 0).any()):
                self._cleared[optimizer] = True

    def _about_to_step(self, optimizer: Optimizer, step: int) -> None:
        """Gradients that no backward since the last step found cleared hold those of the step before as well.

        A script that puts gradients in place by itself makes new tensors; only the very tensor of the last step is
        stale.
        """
        first = _first_gradient(optimizer)
        if step > 0 and not self._cleared.get(optimizer, True) and first is self._used.get(optimizer):
            self._facts["stale"] = True
        self._cleared[optimizer], self._used[optimizer] = False, first

    def _stepped(self, row: StepRecord) -> None:
        if row.step == 0 and "depth" not in self._facts:
            self._facts["depth"] = len(self._runs)
            if not self._facts.get("repeats"):  # no graph to tell by: calls are counted, side by side or in a row
                self._facts["repeats"] = max(self._runs.values(), default=0)
            weights = [
                float(n) for name, n in zip(row.names, row.norm, strict=True) if name.endswith("weight") and n > 0
            ]
            if len(weights) >= 3 and all(map(math.isfinite, weights)):
                self._facts["gain"] = weights[0] / weights[-1]
            self._unhook()
        self._now = row.step + 1
        if self._now >= self._step - BACK and not self._hooks:
            self._narrow()


def _first_gradient(optimizer: Optimizer) -> Tensor | None:
    return next((p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None), None)
