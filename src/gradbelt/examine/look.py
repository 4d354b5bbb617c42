"""One look at a script's first step, in the child: what goes in, what each layer makes of it, what comes back.

`Looker` puts hooks on a patient until its first step is over; the `Look` it takes holds plain values only. The first
update is measured by letting it happen. A check writes it down and stops the process right after; a reproduction goes
on.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves

from gradbelt._types import StepRecord
from gradbelt.errors import UsageError
from gradbelt.examine.again import Again
from gradbelt.examine.checkup import EVENT, Layer, Look
from gradbelt.examine.functions import Functions
from gradbelt.examine.graph import most_used, num_skips, summed
from gradbelt.examine.guess import Guesses
from gradbelt.examine.profiles import he_std, xavier_std
from gradbelt.examine.values import rms
from gradbelt.supervise.calls import is_transformed
from gradbelt.supervise.names import named_parameters, roots
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.script import Enough

TABLES = (nn.Embedding, nn.EmbeddingBag)
MOST = 5000  # calls of layers that are looked at
UPDATES = 3  # of a check that are measured on their own batch


class Looker:
    """Looks at a patient until its first step is over; with `stop`, the patient writes it down and ends there."""

    def __init__(self, patient: Patient, *, stop: bool) -> None:
        self._patient, self._stop = patient, stop
        self._around = ExitStack()
        self.look: Look | None = None  # what was seen, once the first step is over
        self._open, self._looking = True, True
        self._layers: list[dict[str, Any]] = []
        self._runs: dict[int, int] = {}
        self._depth = 0
        self._names: dict[int, str] = {}
        self._facts: dict[str, Any] = {}
        self.guesses = Guesses()
        self._recurrent: set[str] = set()
        self._norms: set[int] = set()
        self._before: list[tuple[str, Tensor, Tensor]] = []
        self._again: Again | None = None
        self._unprepared = stop and patient.plan.check == "script"
        self._updates = 0  # that were measured on their own batch
        self._loss = math.nan  # that the next one is to lower
        self._by_hand = False  # the first step was one without an optimizer: its update comes before the next forward
        patient.at_torch.append(self._fit)
        patient.at_backward.append(self._backward)
        patient.after_backward.append(self._after_backward)
        patient.at_optimizer.append(self._about_to_step)
        patient.at_step.append(self._stepped)
        patient.at_end.append(self._over)

    def factory(self, where: str) -> Callable[[], None]:
        """A script that calls `module:factory` and looks at the model it returns."""
        return lambda: self._built(where)

    def _built(self, where: str) -> None:
        module, _, name = where.partition(":")
        sys.path.insert(0, "")
        made = getattr(importlib.import_module(module), name)()
        model, *inputs = made if isinstance(made, tuple) else (made,)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise UsageError(f"{where} returned {kind}; it must return a torch module, or (module, input)")
        if inputs:
            out = model(*inputs)
            ends = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]
            # a random direction at the output: gains don't depend on the loss
            torch.autograd.backward(ends, [torch.randn_like(end) for end in ends])
        else:
            self._static(model)
        self._facts["stepped"] = True
        self._enough()

    # --------------------------------------------------------------------------------------------------------- forward

    def _fit(self, patient: Patient) -> None:
        module = torch.nn.modules.module
        for handle in (
            module.register_module_forward_pre_hook(lambda m, args: patient.guarded(self._enter, m, args)),
            module.register_module_forward_hook(lambda m, args, out: patient.guarded(self._leave, m, args, out)),
        ):
            self._around.callback(handle.remove)
        # stays: it calls `_over`, and a hook can't remove itself while torch goes through the hooks
        updated = register_optimizer_step_post_hook(lambda o, _args, _kwargs: patient.guarded(self._updated, o))
        patient.around.callback(updated.remove)
        functions = Functions(self, patient.guarded)
        functions.put_on()
        self._around.callback(functions.take_off)

    @property
    def looking(self) -> bool:
        return self._looking and torch.is_grad_enabled() and not is_transformed()

    def note(self, name: str, value: float) -> None:
        """Keeps the largest; a nan counts as infinite."""
        self._facts[name] = max(self._facts.get(name, 0.0), value if value == value else math.inf)

    def fact(self, name: str, value: object) -> None:
        """Keeps the first."""
        self._facts.setdefault(name, value)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._by_hand:
            self._by_hand = False
            self._meet_again()
            self._enough()
        if self._unprepared and torch.is_grad_enabled() and next(module.parameters(), None) is not None:
            self._prepare()
        if self.looking and "input_rms" not in self._facts and next(module.parameters(), None) is not None:
            given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.numel()]
            if given and given[0].is_floating_point():
                self._input(given[0].detach().float())
            elif given:
                self._facts["input_rms"] = None  # numbers of words: they have no scale

    def _prepare(self) -> None:
        """Before the first forward: copies of the process that can meet the first batch again."""
        held = [p for each in self._patient.seams.optimizers for group in each.param_groups for p in group["params"]]
        self._again = Again.prepare(held or [p for _, p in named_parameters()], self._patient.plan.folder)
        self._unprepared, self._loss = False, math.nan
        if self._again is not None and self._again.is_copy:
            self._patient.leave_no_trace()
            self._looking = False

    def _input(self, given: Tensor) -> None:
        self._facts.update(input_rms=rms(given), input_peak=float(given.abs().max()))
        self._facts["input_finite"] = bool(given.isfinite().all())
        if given.dim() == 2 and given.shape[0] > 1:
            spread = given.std(0)
            spread = spread[spread > 0]
            if spread.numel():
                self._facts["input_spread"] = float(spread.max() / spread.median())

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        if not self.looking or len(self._layers) >= MOST:
            return
        given, made = _first(args), _first(out)
        if "Norm" in type(module).__name__:
            self._norms.add(id(module))
        if made is None:
            return
        if given is not None and _finite(given) and not _finite(made):
            self.fact("broken", self._name(module))
        if made.dtype in (torch.float16, torch.bfloat16):
            self.fact("half", str(made.dtype).removeprefix("torch."))
        if "Attention" in type(module).__name__:
            self._facts["attention"] = True
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            self._recurrent.add(type(module).__name__)
        if isinstance(module, nn.RNNBase) and given is not None and given.dim() == 3:
            self._lags(module, given)
        if _is_layer(module):
            self._layer(module, given, made)

    def _layer(self, module: nn.Module, given: Tensor | None, made: Tensor) -> None:
        run = self._runs[id(module)] = self._runs.get(id(module), -1) + 1
        with torch.no_grad():
            given_rms = rms(given) if given is not None else math.nan
            layer = {**_about(self._name(module), module), "given": given_rms, "made": rms(made), "run": run}
            layer["peak"] = float(made.abs().max()) if made.numel() else 0.0
        self._layers.append(layer)
        if made.requires_grad:
            keep: Any = made.register_hook
            keep(lambda gradient: layer.update(grad=float(gradient.float().norm())))

    def _lags(self, module: nn.RNNBase, given: Tensor) -> None:
        """The gradient of the last output with respect to each input: M5, one forward and backward of this layer."""
        time = 1 if module.batch_first else 0
        length = given.shape[time]
        if length <= self._facts.get("sequence", 3):
            return
        probe = given.detach().clone().requires_grad_()
        devices = [given.device] if given.device.type == "cuda" else []
        # without functions seen: they would lead `grad` to the seams, which would take it for the script's own
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), torch._C.DisableTorchFunction():
            last = module.forward(probe)[0].select(time, length - 1)
            last = last[..., : module.hidden_size]  # of two directions, the one that has come all the way
            (back,) = grad((last * torch.randn_like(last)).sum(), probe)
        sizes = back.float().transpose(0, time).flatten(1).norm(dim=1)
        self._facts.update(sequence=length, lags=sizes.flip(0).tolist(), lags_of=self._name(module))

    def _name(self, module: nn.Module) -> str:
        if id(module) not in self._names:
            for root, model in roots():
                for path, each in model.named_modules():
                    self._names[id(each)] = ".".join(part for part in (root, path) if part) or type(each).__name__
        return self._names.get(id(module), type(module).__name__)

    def _static(self, model: nn.Module) -> None:
        """What a model shows that nothing was put through: its weights, in the order they are registered."""
        for path, module in model.named_modules():
            if "Norm" in type(module).__name__:
                self._norms.add(id(module))
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self._recurrent.add(type(module).__name__)
            self._facts["attention"] = self._facts.get("attention", False) or "Attention" in type(module).__name__
            if _is_layer(module):
                nothing = {"given": math.nan, "made": math.nan, "peak": math.nan}
                self._layers.append({**_about(path, module), **nothing})

    # --------------------------------------------------------------------------------------------- backward and update

    def _backward(self, losses: Sequence[Tensor]) -> None:
        if self._patient.plan.check == "factory":
            return  # what it is called on is no loss
        if not self._looking and self._again is None:
            return
        values = [float(getattr(loss, "_gradbelt_unscaled", loss).detach().float().mean()) for loss in losses]
        value = math.fsum(values) if all(map(math.isfinite, values)) else math.nan
        if self._again is not None:
            self._again.answer(value)
            self._loss = value if self._loss != self._loss else self._loss  # the first of a step that has several
        if not self._looking:
            return
        self._facts.update(loss=value, summed=max(map(summed, losses), default=0), num_skips=num_skips(losses))
        guesses = [self.guesses.of(getattr(loss, "_gradbelt_unscaled", loss)) for loss in losses]
        if all(guess is not None for guess in guesses):
            self.fact("guess", math.fsum(guess or 0.0 for guess in guesses))
        if (uses := most_used(losses)) > 3:  # C4: one weight used more than three times in one forward
            self.fact("sequence", uses)

    def _after_backward(self, _losses: Sequence[Tensor]) -> None:
        self._looking = False

    def _about_to_step(self, optimizer: Optimizer) -> None:
        if not self._open:
            return
        lrs = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        self._facts.update(optimizer=type(optimizer).__name__, lr=max(lrs, default=None), stepped=True)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        found = roots()
        modules = [module for _, root in found for module in root.modules()]
        embedded = {id(p) for m in modules if isinstance(m, TABLES) for p in m.parameters(recurse=False)}
        self._before = [
            (name, parameter, parameter.detach().clone())
            for name, parameter in named_parameters(found)
            if id(parameter) in held - embedded and parameter.dim() >= 2
        ]

    def _updated(self, optimizer: Optimizer) -> None:
        if not self._open:
            return
        self._facts.setdefault("moves", self._moved())
        self._meet_again()
        self._enough()

    def _moved(self) -> dict[str, float]:
        """How far the first update has carried each weight, over the weight's norm."""
        moves = {}
        for name, parameter, before in self._before:
            size = float(before.float().norm())
            if size > 0:  # a weight that begins at zero moves infinitely far, as it is meant to
                moves[name] = float((parameter.detach() - before).float().norm()) / size
        self._before.clear()
        return moves

    def _meet_again(self) -> None:
        """The weights are updated: what that did to the loss of the very batch it was made from. Then the next."""
        if self._again is None or self._again.is_copy:
            return
        seen = self._again.losses(self._loss) if math.isfinite(self._loss) else {}
        rows = self._facts.setdefault("again", [])
        rows += [(self._updates, share, self._loss, loss) for share, loss in seen.items()]
        self._updates += 1
        # behind one that overshoots, nothing is the script's own doing any more
        self._again, self._unprepared = None, seen.get(1.0, math.inf) <= self._loss and self._updates < UPDATES

    def _stepped(self, row: StepRecord) -> None:
        self._facts["stepped"] = True
        if "optimizer" not in self._facts:
            self._by_hand = self._again is not None
            if not self._by_hand:
                self._enough()

    def _enough(self) -> None:
        """The first step is over; a check goes on for as many updates as it measures."""
        if self._unprepared and "again" in self._facts:
            return
        self._over()
        if self._stop:
            raise Enough

    def _over(self) -> None:
        """Takes the look, once; nothing of ours is left behind."""
        if not self._open:
            return
        self._open = self._looking = False
        self._around.close()
        self._before.clear()
        self.guesses = Guesses()
        if self._again is not None:
            self._again.close()
        facts = {**self._facts, "recurrent": sorted(self._recurrent), "num_norms": len(self._norms)}
        self.look = Look(layers=tuple(Layer(**layer) for layer in self._layers), **facts)
        if self._stop:
            self._patient.event(EVENT, "what was seen up to the first step", **asdict(self.look))


def _is_layer(module: nn.Module) -> bool:
    """Whether it is one call with a weight matrix of its own; looking words up in a table is not."""
    if isinstance(module, (*TABLES, nn.RNNBase)) or "Norm" in type(module).__name__:
        return False
    own = any(p is not None and p.dim() >= 2 for p in module._parameters.values())
    return own and (isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None)


@torch.no_grad()
def _about(name: str, module: nn.Module) -> dict[str, Any]:
    """Its name, kind and width, and how its weights stand to what they would be drawn with."""
    weight = getattr(module, "weight", None)
    about: dict[str, Any] = {"name": name, "kind": type(module).__name__, "width": 1}
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and isinstance(weight, Tensor) and weight.numel() > 1:
        across = nn.init._calculate_fan_in_and_fan_out(weight)
        std = float(weight.float().std())
        about.update(width=weight.shape[0], he=std / he_std(across[0]), xavier=std / xavier_std(*across))
    else:
        widest = max((p for p in module._parameters.values() if p is not None and p.dim() >= 2), key=Tensor.numel)
        about["width"] = widest.shape[0]
    return about


def _first(value: Any) -> Tensor | None:
    return next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())
