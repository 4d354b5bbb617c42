"""What the functions that a script calls show of its first step: its losses, its targets, its attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradbelt.examine.graph import behind
from gradbelt.examine.guess import CONSTANT, Guesses
from gradbelt.examine.values import rms

BESIDE = 8  # operations back from a softmax in which the product of its attention must lie: a scale, a mask


class Notes(Protocol):
    """Who writes down what is seen, while it looks."""

    guesses: Guesses

    @property
    def looking(self) -> bool: ...

    def note(self, name: str, value: float) -> None:
        """Keeps the largest; a nan counts as infinite."""

    def fact(self, name: str, value: object) -> None:
        """Keeps the first."""


class Functions(TorchFunctionMode):
    """Sees the losses and the attention that are functions. `guarded` calls what follows, and swallows its errors."""

    def __init__(self, notes: Notes, guarded: Callable[..., Any]) -> None:
        super().__init__()
        self._notes, self._guarded = notes, guarded

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if self._notes.looking:
            if (look := SEEN.get(name)) is not None:
                self._guarded(look, self._notes, args, kwargs or {}, out)
            if name in CONSTANT:
                self._guarded(self._notes.guesses.note, func, args, kwargs or {}, out)
        return out

    def put_on(self) -> None:
        """From here on every call of a torch function is seen."""
        enter: Any = self.__enter__
        enter()

    def take_off(self) -> None:
        """None is seen any more; modes that the script has entered since stay."""
        stack: Any = torch.overrides
        above: list[Any] = []
        while stack._len_torch_function_stack():
            top = stack._pop_mode()
            if top is self:
                break
            above.append(top)
        for each in reversed(above):
            stack._push_mode(each)


@torch.no_grad()
def _classified(notes: Notes, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
    logits, target = _operands(args, kwargs)
    if logits is None or target is None or logits.dim() < 1:
        return
    classes = logits.shape[1] if logits.dim() > 1 else logits.shape[0]
    notes.note("logits", float(logits.detach().abs().max()))
    notes.fact("classes", int(classes))
    num = target.numel() if not target.is_floating_point() else target.numel() // classes
    summed = kwargs.get("reduction") == "sum"
    notes.fact("cross_entropy", float(out.detach().float().mean()) / (max(1, num) if summed else 1))


@torch.no_grad()
def _regressed(notes: Notes, args: Any, kwargs: dict[str, Any], _out: Tensor) -> None:
    _, target = _operands(args, kwargs)
    if target is not None and target.is_floating_point() and target.numel():
        notes.fact("target_rms", rms(target))
        notes.fact("target_finite", bool(target.isfinite().all()))


@torch.no_grad()
def _attended(notes: Notes, args: Any, kwargs: dict[str, Any], _out: Tensor) -> None:
    query, key = (*args, *(kwargs[name] for name in ("query", "key") if name in kwargs))[:2]
    scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
    if query.shape[-3] == key.shape[-3]:
        notes.note("attended", float((query.detach() @ key.detach().mT).abs().max()) * scale)
    notes.fact("attention", True)


@torch.no_grad()
def _weighed(notes: Notes, args: Any, kwargs: dict[str, Any], _out: Tensor) -> None:
    """A softmax over products: attention written by hand."""
    scores, _ = _operands(args, kwargs)
    if scores is None or scores.dim() < 3 or scores.grad_fn is None:
        return
    near = [scores.grad_fn, *behind(scores.grad_fn, most=BESIDE)]
    if any(node.name().startswith("BmmBackward") for node in near):
        sizes = scores.detach().abs()
        notes.note("attended", float(sizes[sizes.isfinite()].amax()) if bool(sizes.isfinite().any()) else math.inf)
        notes.fact("attention", True)


SEEN = {
    "softmax": _weighed,
    "cross_entropy": _classified,
    "mse_loss": _regressed, "l1_loss": _regressed, "smooth_l1_loss": _regressed, "huber_loss": _regressed,
    "binary_cross_entropy_with_logits": _regressed,  # of targets beyond one it has no lower bound
    "scaled_dot_product_attention": _attended,
}  # fmt: skip


def _operands(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    both = [*args[:2], *(kwargs[name] for name in ("input", "target") if name in kwargs)]
    one, other = [each if isinstance(each, Tensor) else None for each in (*both, None, None)][:2]
    return one, other
