"""Follows nan and inf from the operation that made them to the loss, or the gradient, that they reached.

What never arrives is not the fault: a mask of -inf that softmax takes in, the log that `where` throws away, a metric.
So each number that is not finite is followed back to its maker, and a maker is named once its numbers have arrived.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from gradbelt.examine.place import Place, Places, is_ours, path_of
from gradbelt.examine.values import badness, extent, finite_in, flat, is_mask, masks_only, numbers, tensors, worst

NOT_MADE = ("empty", "resize", "set_", "view")  # memory not written yet, or seen anew
TAKES_MASKS = ("softmax", "logsumexp", "safe_softmax")
REDUCES = {
    "sum", "mean", "prod", "logsumexp", "nll_loss", "nll_loss2d", "max", "amax", "min", "amin", "gather", "dot", "norm",
    "linalg_vector_norm", "cumsum",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """Numbers that are not finite, where they come from."""

    place: Place
    how: str  # "made" out of finite numbers; "asked" for by the script; "data" or "weight": they were there before
    made: str  # "nan" | "inf"
    low: float | None = None  # absolute values that went in
    high: float | None = None
    tensor: str | None = None  # the parameter that was written
    order: int = 0
    finite_in: str | None = None  # the least precision in which the same operation on the same numbers is finite

    def as_update(self, tensor: str) -> Sighting:
        """The same, now that it was written into a weight."""
        place = self.place
        return replace(
            self, place=Place("update", place.op, place.module, place.file, place.line), tensor=tensor, how="made"
        )

    def told(self, *, about: bool) -> dict[str, Any]:
        """Plain values, for the black box; `about`: it may be another one."""
        place = self.place
        stage = {"data": "data", "weight": "update"}.get(self.how, place.stage)
        return {
            "stage": stage, "op": place.op, "module": path_of(place.module), "file": place.file, "line": place.line,
            "how": self.how, "made": self.made, "low": self.low, "high": self.high, "tensor": self.tensor,
            "about": about or place.line is None, "finite_in": self.finite_in,
        }  # fmt: skip


class Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at what every operation makes, until numbers that are not finite have reached a loss or a gradient.

    Args:
        modules: The modules that are running, the innermost last; kept by the caller.
        weights: Answers the parameters by name.
        rehearsing: Whether a healthy step comes first. What an operation does there it does on purpose.
    """

    def __init__(
        self, modules: list[nn.Module], weights: Callable[[], Sequence[tuple[str, Tensor]]], *, rehearsing: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, Any] | None = None
        self._places, self._weights, self._rehearsing = Places(modules), weights, rehearsing
        self._usual: set[tuple[str, str | None, int | None]] = set()
        self._known: dict[StorageWeakRef, Sighting] = {}  # storages that hold such numbers
        self._seen: list[Sighting] = []
        self._read: Sighting | None = None  # what `item` last read that was not finite
        self._blind = False

    def begin(self) -> None:
        """The healthy step is over."""
        self._rehearsing = False
        self._usual = {sighting.place.key for sighting in self._seen}
        self._seen.clear()

    def arrived(self, ends: Iterable[Tensor], *, held: bool = False) -> None:
        """Losses, or gradients about to be used: the first maker of what is not finite in them is the one.

        Args:
            held: They are weights. If nobody was seen to make them so, they were before, and there is no more to see.
        """
        if self._rehearsing or self.found is not None:
            return
        with self._unseen():
            bad = [end for end in ends if badness(end)]
            makers = [known for end in bad if (known := self._known.get(_storage(end)))]
        if bad and held and not makers:
            self._blind = True
        elif bad:
            self._settle(makers)

    def arrived_unseen(self) -> None:
        """A gradient or loss is not finite, and no tensor of it can be asked: the first maker there was."""
        if not self._rehearsing and self.found is None:
            self._settle([])

    def _settle(self, makers: list[Sighting]) -> None:
        first = min(makers, key=lambda maker: (self._harmless(maker), maker.order), default=None)
        if first is not None:
            self.found = first.told(about=first.place.key in self._usual)
            return
        makers = [sighting for sighting in self._seen if not self._harmless(sighting)]
        if makers:
            self.found = makers[0].told(about=len({maker.place.key for maker in makers}) > 1)

    # ------------------------------------------------------------------------------------------------------- the watch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled while operations are followed, and torch's guard would cost as much as the watch."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.found is not None or self._blind:
            return out
        self._places.remember(func)
        nature = _nature(func)
        if nature.looks:  # the same numbers in another shape
            return out
        if isinstance(out, float):  # of item()
            if not math.isfinite(out) and not is_ours():
                self._read = next((self._known.get(_storage(tensor)) for tensor in tensors(args)), None)
            return out
        written = _written(nature, args, kwargs or {}) if nature.writes else []
        bad = [tensor for tensor in tensors(out) if badness(tensor)]
        bad += [tensor for tensor in written if tensor is not out and badness(tensor)]
        if bad and not is_ours():
            self._met(func, args, kwargs or {}, bad, written)
        if self._known:
            for tensor in written:
                if tensor not in _Same(bad) and _is_whole(tensor):
                    self._known.pop(_storage(tensor), None)
        return out

    def _met(self, func: Any, args: Any, kwargs: Any, bad: list[Tensor], written: list[Tensor]) -> None:
        kind = worst(bad) or "nan"
        given = [tensor for tensor in tensors((args, kwargs)) if tensor not in _Same(written)]
        sick = [tensor for tensor in given if badness(tensor)]
        before = [known for tensor in bad if tensor in _Same(written) and (known := self._known.get(_storage(tensor)))]
        if "lift_fresh" in str(func) and not bad[0].dim():
            return  # a number on its way into a tensor
        sources = [*(self._source(func, tensor) for tensor in sick), *before]
        if not sources:
            if any(word in str(func) for word in NOT_MADE):
                return
            asked = any(isinstance(value, float) and not math.isfinite(value) for value in flat((args, kwargs)))
            source = self._read if asked else None
            source = source or self._note(func, "asked" if asked else "made", kind, given, written, (args, kwargs))
        else:
            source = min(sources, key=lambda each: (self._harmless(each), each.order))
            if self._is_new(func, kind, source, sick, bad):
                source = self._note(func, "made", kind, given, written)  # not out of finite numbers
        weights = {_storage(weight): name for name, weight in self._weights()} if written else {}
        for tensor in bad:
            held = self._known.get(_storage(tensor))
            if held is None or self._harmless(held):
                name = weights.get(_storage(tensor)) if source.place.stage == "forward" else None
                self._known[_storage(tensor)] = source if name is None else source.as_update(name)

    def _is_new(self, func: Any, kind: str, source: Sighting, sick: list[Tensor], bad: list[Tensor]) -> bool:
        """Whether an operation that was given numbers which are not finite is itself the one to name."""
        op = self._places.now(func).op
        if op.endswith(TAKES_MASKS) and kind == "nan" and all(map(masks_only, sick)):
            return True  # it would have taken in a mask, but nothing is left of a row
        if not self._harmless(source):
            return False
        if kind == "nan":
            return source.made == "inf"  # 0 * inf, inf - inf
        # of a mask, one entry is let through: it was meant to be taken in before
        return source.how == "asked" and op in REDUCES and sum(map(Tensor.numel, bad)) < sum(map(Tensor.numel, sick))

    def _source(self, func: Any, tensor: Tensor) -> Sighting:
        """Who made what is not finite in a tensor that was given; a new sighting where nobody was seen to."""
        known = self._known.get(_storage(tensor))
        if known is not None:
            return known
        if (tensor.is_leaf and tensor.requires_grad) or self._is_weight(tensor):
            how = "weight"
        elif not tensor.dim():  # a number: of the script, or one that was read from a tensor
            if self._read is not None:
                return self._read
            how = "asked"
        else:
            how = "asked" if is_mask(tensor) else "data"
        sighting = self._note(func, how, badness(tensor) or "nan", [tensor], [])
        self._known[_storage(tensor)] = sighting
        return sighting

    def _note(
        self, func: Any, how: str, kind: str, given: list[Tensor], written: list[Tensor], call: Any = None
    ) -> Sighting:
        place, name = self._places.now(func), None
        if place.stage != "backward" and how in ("made", "asked"):
            name, stage = self._updating(place, given, written)
            how = "made" if stage == "update" else how  # an infinite learning rate is nobody's wish
            place = Place(stage, place.op, place.module, place.file, place.line)
        low, high = extent(given)
        wider = None if call is None or how != "made" or written else finite_in(func, *call)
        sighting = Sighting(place, how, kind, low, high, name, order=len(self._seen), finite_in=wider)
        self._seen.append(sighting)
        return sighting

    def _updating(self, place: Place, given: list[Tensor], written: list[Tensor]) -> tuple[str | None, str]:
        """The weight that is being updated, and "update": it or its gradient is written to, or its gradient is used."""
        weights = self._weights()
        names = {_storage(weight): name for name, weight in weights}
        grads = {_storage(w.grad): name for name, w in weights if w.grad is not None and not w.grad.is_sparse}
        for tensor in written:
            key = _storage(tensor)
            if key in names or key in grads:
                return names.get(key, grads.get(key)), "update"
        for tensor in given:
            if _storage(tensor) in grads:
                return grads[_storage(tensor)], "update"
        return None, place.stage

    def _is_weight(self, tensor: Tensor) -> bool:
        key = _storage(tensor)
        return any(_storage(weight) == key for _, weight in self._weights())

    def _harmless(self, sighting: Sighting) -> bool:
        return sighting.how == "asked" or sighting.place.key in self._usual

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        self._blind = True
        try:
            yield
        finally:
            self._blind = False


class _Same:
    """Tensors, by identity."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        self._ids = set(map(id, given))

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._ids


def _storage(tensor: Tensor) -> StorageWeakRef:
    """What a tensor's memory is known by; its address is not used again while the reference lives."""
    held = _unwrapped(tensor)
    held = numbers(held) if held.is_sparse else held
    return StorageWeakRef(held.untyped_storage())  # type: ignore[no-untyped-call]


def _unwrapped(tensor: Tensor) -> Tensor:
    """The tensor that holds the numbers, where torch.func has put its own around it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


@dataclass(frozen=True, slots=True)
class _Nature:
    """What is known of an operation before it runs."""

    looks: bool  # what it answers is memory that it was given, which it doesn't write to
    writes: tuple[tuple[int, str], ...]  # its arguments that it writes to: place and name


@functools.cache
def _nature(func: Any) -> _Nature:
    given, made = func._schema.arguments, func._schema.returns
    looks = bool(made) and all(each.alias_info is not None and not each.alias_info.is_write for each in made)
    return _Nature(looks, tuple((i, each.name) for i, each in enumerate(given) if each.is_write))


def _written(nature: _Nature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation in place has written to."""
    return [
        tensor
        for place, name in nature.writes
        for tensor in tensors(args[place] if place < len(args) else kwargs.get(name))
    ]


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all of its memory."""
    tensor = _unwrapped(tensor)
    return not tensor.is_sparse and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
