"""Torch's functions, met on their way from the script: what a remedy puts in their place.

A function mode sees every call, whatever way it is written: `torch.log(x)`, `x.log()`, `1 / x`, what a module's forward
calls. A call is known by its short name: log, div, __rdiv__, linear, mse_loss.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TypedDict

from gradbelt.supervise.sites import line, outward, span

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.deeds import Deeds
    from gradbelt.supervise.patient import Patient

_REMEDIES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "remedies") + os.sep  # calls go through
_OPTIMIZERS = os.path.join("torch", "optim") + os.sep


@dataclass(slots=True)
class Call:
    """One call of a torch function."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    frame: FrameType | None

    @property
    def name(self) -> str:
        return self.func.__name__

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The call, its first arguments replaced by `args` and its keywords by `kwargs`."""
        return self.func(*args, *self.args[len(args) :], **{**self.kwargs, **kwargs})

    def put(self, place: int, value: Any) -> Any:
        """The call with its argument at `place` replaced."""
        return self.func(*self.args[:place], value, *self.args[place + 1 :], **self.kwargs)

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors that go in, those in lists too."""
        return _tensors((self.args, self.kwargs))

    def ways(self, of: object) -> list[Way]:
        """The user's expressions that led to this call, innermost first."""
        found: list[Way] = []
        callee = None
        for frame, kind in outward(self.frame):
            if kind == "user":
                given = self.args if callee is None else _given(callee)
                place = next((i for i, value in enumerate(given) if value is of), None)
                found.append({"at": line(frame), "span": span(frame), "place": place, "direct": callee is None})
            if kind != "ours":
                callee = frame
        return found

    @property
    def where(self) -> str | None:
        """The user's line that led here, through other remedies or not; None for what optimizers and gradbelt compute
        for themselves."""
        for frame, kind in outward(self.frame):
            name = frame.f_code.co_filename
            if kind == "user":
                return line(frame)
            if (kind == "ours" and name != __file__ and _REMEDIES not in name) or _OPTIMIZERS in name:
                return None
        return None


Handler = Callable[[Call], Any]


class Way(TypedDict):
    """One expression of the user's that leads to a call of torch."""

    at: str  # "train.py:42"
    span: list[int] | None
    place: int | None  # among its arguments, of the very tensor that is looked at; None: it is none of them
    direct: bool  # it calls torch's function itself, not something that does


def note(deeds: Deeds, what: str, call: Call, of: object, **facts: Any) -> None:
    """A deed on the line that led to `call`, with the expressions on the way there and whatever else an edit needs."""
    where = call.where or ""
    deeds(what, where or None)
    known = deeds.facts.get((what, where))
    if known is None:
        known = deeds.facts[what, where] = {"ways": call.ways(of)}
    known.update(facts)


def _given(callee: FrameType) -> list[Any]:
    """What a function was called with by position, as far as its names still hold it."""
    code, held = callee.f_code, callee.f_locals
    names = code.co_varnames[: code.co_argcount]
    given = [held.get(name) for name in names[names[:1] == ("self",) :]]
    if code.co_flags & inspect.CO_VARARGS:
        given += held.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return given


def intercept(patient: Patient, handlers: Mapping[str, Handler]) -> None:
    """Calls of the named functions go to their handler, which answers in their place, until the script ends.

    A handler that fails costs the user nothing: the call is made as it was written, and the handler is asked no more.
    Within vmap none is asked, for there is no number to read.
    """
    from torch.overrides import TorchFunctionMode

    active = dict(handlers)

    class Interceptor(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
        ) -> Any:
            name = getattr(func, "__name__", "")
            handler = active.get(name)
            if handler is None or is_mapped():
                return func(*args, **(kwargs or {}))
            try:
                return handler(Call(func, args, kwargs or {}, sys._getframe(1)))
            except Exception as error:
                answer = func(*args, **(kwargs or {}))  # raises the same where the call itself was at fault
                active.pop(name, None)
                patient.event("remedy_failed", f"{name}: {type(error).__name__}: {error}")
                return answer

    patient.enter(Interceptor())


def is_float(value: object) -> bool:
    """Whether it is a tensor of real floating-point numbers, and not a sparse one."""
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and not value.is_sparse


def learns(*values: object) -> bool:
    """Whether a gradient will flow into any of these."""
    import torch

    return torch.is_grad_enabled() and any(t.requires_grad for t in _tensors(values))


def is_transformed() -> bool:
    """Whether torch.func is at work: the tensors at hand stand for others, and those of vmap hold no number to read.

    >>> import torch
    >>> is_transformed(), torch.vmap(lambda x: x * is_transformed())(torch.ones(2)).tolist()
    (False, [1.0, 1.0])
    """
    import torch

    return torch._C._functorch.peek_interpreter_stack() is not None


def is_mapped() -> bool:
    """Whether vmap is at work, itself or around another transform.

    >>> import torch
    >>> is_mapped(), torch.vmap(lambda x: x * is_mapped())(torch.ones(2)).tolist()
    (False, [1.0, 1.0])
    """
    from torch._C import _functorch

    return any(each.key() == _functorch.TransformType.Vmap for each in _functorch.get_interpreter_stack() or ())


def _tensors(tree: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _tensors(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from _tensors(branch)
