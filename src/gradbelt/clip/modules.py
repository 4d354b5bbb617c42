"""Clip the norm of each module's gradient by itself."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

from gradbelt._types import Action, History, Measurement
from gradbelt.clip.order import Partition, groups_down_to, order, parted
from gradbelt.clip.rule import Example, measured, refuse, threshold
from gradbelt.errors import UsageError

WRAPPERS = ("module", "_orig_mod")  # DistributedDataParallel's and torch.compile's, in front of every name


@dataclass(frozen=True)
class Modules:
    """The p-norm over each module's gradients is at most `max_norm`; modules above it are scaled as a whole.

    Parameters whose names share their first `depth` parts are one module: at depth 1 "encoder.layers.0.weight" and
    "encoder.embed.weight" are both "encoder"'s, at depth 3 the first is "encoder.layers.0"'s. A parameter's own name is
    no part, so at a depth that is large enough a module is a layer, its weight and bias together; those that lie in no
    module, or have no name because `fasten` was given no model, are one group.

    Use it where parts of a network that are trained together have scales of their own (an encoder and a decoder, a
    backbone and its heads, the blocks of a transformer) and none should hold back the others. Within a module the
    direction stays, the gradient as a whole turns; where that matters take Norm. Of M modules at the limit the total is
    sqrt(M) x max_norm.

    For p other than 2 the gradients are read once more. A norm that a float32 can't tell from max_norm counts as within
    it. Raises UsageError unless max_norm and p are above 0 and depth is 1 or more.

        gradbelt run --clip modules:1.0,3 train.py

    >>> from gradbelt.clip.rule import measured
    >>> seen = replace(measured(3.0, 4.0, 0.5), names=("rnn.weight", "rnn.bias", "head.weight"))
    >>> Modules(1.0).decide(seen, History())
    ScaleEach(coefficients=(0.2, 0.2, 1.0))
    """

    max_norm: float
    depth: int = 1
    p: float = 2.0
    name: ClassVar[str] = "modules"
    SOURCE: ClassVar[str] = (
        "smartclip's per_layer scope; Megatron-core and OLMo keep a norm for each group of parameters likewise"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", threshold(self.max_norm, "Modules' max_norm"))
        object.__setattr__(self, "p", order(self.p, "Modules' p"))
        if not (self.depth >= 1 and self.depth == int(self.depth)):
            raise UsageError(
                f"Modules' depth is {self.depth!r}: it counts the parts of a name that a module's parameters share, so "
                'it is 1, 2, ...: in "encoder.layers.0.weight" depth 1 is "encoder" and depth 3 "encoder.layers.0".'
            )
        object.__setattr__(self, "depth", int(self.depth))

    def decide(self, seen: Measurement, history: History) -> Action:
        del history
        if not seen.finite:
            return refuse(seen)
        return groups_down_to(self.max_norm, self.p, _modules(seen.names, self.depth), seen)


@functools.lru_cache(maxsize=64)
def _modules(names: tuple[str, ...], depth: int) -> Partition:
    """Positions of each module's parameters, in the order the modules first come."""
    found: dict[tuple[str, ...], list[int]] = {}
    for index, name in enumerate(names):
        parts = name.split(".")[:-1]
        while parts and parts[0] in WRAPPERS:
            del parts[0]
        found.setdefault(tuple(parts[:depth]), []).append(index)
    return parted(tuple(map(tuple, found.values())))


def _named(*norms: float) -> Measurement:
    return replace(measured(*norms), names=("rnn.weight", "rnn.bias", "head.weight"))


CALM = (
    Example(rule=Modules(1.0), seen=_named(0.6, 0.8, 1.0)),
    Example(rule=Modules(1.0), seen=measured(0.0)),
    Example(rule=Modules(1.0, p=float("inf")), seen=_named(0.6, 0.7, 0.9)),
)
SICK = (
    Example(rule=Modules(1.0), seen=_named(3.0, 4.0, 0.5)),
    Example(rule=Modules(1.0, depth=2), seen=_named(0.1, 0.1, 1e30)),
    Example(rule=Modules(1.0, p=1.0), seen=_named(3.0, 4.0, 0.5)),
    Example(rule=Modules(1.0, p=float("inf")), seen=_named(3.0, 0.1, 40.0)),
)
