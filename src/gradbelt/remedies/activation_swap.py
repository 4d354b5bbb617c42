"""A ReLU that leaks, instead of activations that saturate or run away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import first, numbers, paths, pretrained, rehearsed, replace
from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import calls
from gradbelt.supervise.sites import line, span, user_frame

if TYPE_CHECKING:
    from torch import nn

    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Call, Course

SWAPPED = {
    "sigmoid", "tanh", "hardtanh", "hardsigmoid", "logsigmoid", "softsign", "tanhshrink", "relu6", "clamp", "clip",
    "exp", "square", "pow",
}  # fmt: skip
"""Bounded ones, whose slope goes to zero, and ones that grow faster than their input."""
SLOPE = 0.01
WHAT = "activation swapped"
MADE = "_gradbelt_made"  # where the script constructed an activation


@dataclass(frozen=True, slots=True)
class ActivationSwap:
    """Between hidden layers, LeakyReLU stands in for activations that saturate (sigmoid, tanh, ReLU6, ...) or grow
    faster than their input (square, pow, exp), and the layers before them start as He's initialisation has them.

    Modules of torch and functions alike, where the model's first forward shows that a layer feeds the activation and
    another layer takes it up. So gates, attention, recurrent cells, output activations and log-variances stay as they
    are, and so does a model that was loaded from a checkpoint.
    """

    name: ClassVar[str] = "activation_swap"
    invasive: ClassVar[Invasive] = Invasive.ARCHITECTURE
    SOURCE: ClassVar[str] = "Maas et al. 2013 (leaky ReLU); He et al. 2015, arXiv 1502.01852; Glorot and Bengio 2010"
    EDIT: ClassVar[str] = "nn.LeakyReLU(0.01) instead of the hidden activations, and kaiming_normal_ for their layers"

    def fit(self, patient: Patient) -> None:
        from torch import empty, no_grad
        from torch.nn import Module, init
        from torch.nn.functional import leaky_relu
        from torch.overrides import TorchFunctionMode

        from gradbelt.supervise.rehearse import plain, site

        loaded, generator = pretrained(patient), numbers(patient)
        places: set[tuple[str, str]] = set()  # functions by name and line
        ways: dict[tuple[str, str], list[calls.Way]] = {}  # how the script calls them

        class Leaky(TorchFunctionMode):
            def __torch_function__(
                self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
            ) -> Any:
                if places and (name := plain(getattr(func, "__name__", ""))) in SWAPPED and (name, site()) in places:
                    if (name, site()) not in ways:
                        of = args[0] if args else kwargs["input"]
                        ways[name, site()] = calls.Call(func, args, kwargs or {}, sys._getframe(1)).ways(of)
                    return leaky_relu(args[0] if args else kwargs["input"], SLOPE)
                return func(*args, **(kwargs or {}))

        def act(course: Course, _again: Any) -> int:
            if any(module in loaded for module in course.root.modules()):
                return 0
            hidden = swappable(course)
            modules = {call.module for call in hidden if call.module is not None and first(call.module, self.name)}
            made = [vars(module).get(MADE) for module in modules]
            others = [vars(module).get(MADE) for module in course.root.modules() if module not in modules]
            for module in modules:
                leak(module)
            functions = {(call.name, call.site) for call in hidden if call.module is None}
            places.update(functions)
            feeding = {layer.module for call in hidden for layer in feeders(call) if layer in course.layers()}
            with no_grad():
                for each in (call.module for call in course.layers() if call.module in feeding):
                    if each is not None and first(each, "init"):
                        weight: Any = each.weight
                        weight.copy_(init.kaiming_normal_(empty(weight.shape), SLOPE, generator=generator))
            if modules or functions:
                fed = paths(course.root, (module for module in feeding if module is not None))
                # a line that made one of them and another that stays can't be told apart in the source
                told = [None if place in others else place for place in made]
                facts = deeds.facts.setdefault((WHAT, ""), {"made": [], "layers": []})
                facts["made"] += told
                facts["layers"].append(fed)
            return len(modules) + len(functions)

        def noted(original: Callable[..., None], module: nn.Module, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            frame = user_frame(sys._getframe(1)) if _is_torchs(module) else None
            if frame is not None:
                at = line(frame)
                vars(module)[MADE] = {"at": at, "span": span(frame), "place": None, "direct": True}

        def tell() -> None:
            for facts in deeds.facts.values():
                facts["functions"] = [ways.get(place) for place in places]

        replace(patient, Module, "__init__", noted)
        patient.at_end.append(tell)
        patient.enter(Leaky())
        nothing = "no activation that saturates or runs away between hidden layers that start untrained"
        deeds = rehearsed(patient, self.name, act, what=WHAT, nothing=nothing)


def swappable(course: Course) -> list[Call]:
    """Calls between two layers; one module, or one line, with a call that is not stays as it is with all its calls."""
    runs = course.runs()

    def hidden(call: Call) -> bool:
        followers = call.followers(past_norms=True)
        before = feeders(call)
        once = all(layer.module is None or runs[layer.module] == 1 for layer in before)
        return bool(before) and once and bool(followers) and all(each.holds for each in followers)

    calls = [call for call in course.calls if call.name in SWAPPED and (call.module is None or _is_torchs(call.module))]
    places: dict[Any, list[Call]] = {}
    for call in calls:
        places.setdefault(call.module or (call.name, call.site), []).append(call)
    return [call for place in places.values() if all(map(hidden, place)) for call in place]


def feeders(call: Call) -> list[Call]:
    """The layers that the activation's argument comes from: through norms, sums and what only moves values about."""
    from gradbelt.supervise.rehearse import PASSING, SUMS

    found: dict[int, Call] = {}
    todo = [operand for operand in call.operands[:1] if operand is not None]
    while todo:
        each = todo.pop()
        if each.holds:
            found[id(each)] = each
        elif each.is_norm or each.name in PASSING or each.name in SUMS:
            todo += [operand for operand in each.operands if operand is not None]
    return list(found.values())


def leak(module: nn.Module) -> None:
    """The very object becomes a LeakyReLU, so whoever holds it holds the new one."""
    from torch import nn

    module.__class__ = nn.LeakyReLU
    module.negative_slope, module.inplace = SLOPE, False  # type: ignore[assignment]


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"
