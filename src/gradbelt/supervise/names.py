"""Names for parameters that nobody has told us: found by looking at the modules that are alive."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

STANDS_FOR = "_gradbelt_stands_for"  # a tensor that carries another one's gradient says whose
CALLED = "_gradbelt_called"  # and what the script itself calls that one, where no module holds it
SCANS = 20  # a script that keeps making parameters is not followed for ever


class Names:
    """Parameter -> "encoder.0.weight", as `named_parameters()` of the outermost module calls it.

    Where several outermost modules hold parameters (a GAN), each name begins with the variable of `__main__` that
    holds the module, else with its class.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._scans = 0

    def __call__(self, parameters: Sequence[Tensor]) -> tuple[str, ...]:
        if self._scans < SCANS and any(self.of(parameter) is None for parameter in parameters):
            self._scan()
        return tuple(self.of(parameter) or f"parameter {i}" for i, parameter in enumerate(parameters))

    def of(self, parameter: Tensor) -> str | None:
        """The name it was found to have, if it was."""
        if (called := getattr(parameter, CALLED, None)) is not None:
            return str(called)
        parameter = getattr(parameter, STANDS_FOR, parameter)
        known = self._known.get(id(parameter))
        return known[1] if known is not None and known[0]() is parameter else None  # ids are used again

    def _scan(self) -> None:
        self._scans += 1
        for name, root in roots():
            for path, parameter in root.named_parameters():
                self._known[id(parameter)] = (weakref.ref(parameter), _full(name, path))


def named_parameters(among: Sequence[tuple[str, nn.Module]] | None = None) -> list[tuple[str, Tensor]]:
    """The parameters of all modules that are alive, or of these `roots`."""
    found = roots() if among is None else among
    return [(_full(name, path), parameter) for name, root in found for path, parameter in root.named_parameters()]


def name_of(module: nn.Module) -> str | None:
    """The module as `named_modules` calls it; None for the outermost one where there is but one.

    One that lies in no module with parameters, a loss say, is called by its class.
    """
    for name, root in roots():
        for path, inner in root.named_modules():
            if inner is module:
                return _full(name, path + ".").strip(".") or None
    return type(module).__name__


def _full(root: str, path: str) -> str:
    path = path.replace("_orig_mod.", "").removeprefix("module.")
    return f"{root}.{path}" if root else path


def roots() -> list[tuple[str, nn.Module]]:
    """The modules that hold parameters and lie in no other module, with a name for each; "" for one that is alone."""
    # type(), not isinstance: lazy proxies in user code answer isinstance by importing things
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, nn.Module)}
    alive = [thing for thing in objects if type(thing) in kinds]
    del objects
    inner = {id(child) for module in alive for child in module._modules.values() if child is not None}
    found = [module for module in alive if id(module) not in inner and next(module.parameters(), None) is not None]
    if len(found) == 1:
        return [("", found[0])]
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    held = {id(value): name for name, value in main.items() if issubclass(type(value), nn.Module)}
    names: dict[str, int] = {}
    named = []
    for module in found:
        name = held.get(id(module), type(module).__name__)
        names[name] = names.get(name, 0) + 1
        named.append((name if names[name] == 1 else f"{name}{names[name]}", module))
    return named


def leaves(loss: Tensor) -> list[Tensor]:
    """The leaf tensors that a loss's graph will accumulate gradients into: the parameters of a loop without
    optimizer."""
    found: dict[int, Tensor] = {}
    if loss.grad_fn is None:
        return []
    seen: set[torch.autograd.graph.Node] = set()
    todo: list[torch.autograd.graph.Node | None] = [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # only AccumulateGrad has it
        if variable is not None:
            found[id(variable)] = variable
        todo.extend(next_node for next_node, _ in node.next_functions)
    return list(found.values())
