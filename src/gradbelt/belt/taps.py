"""Functions with a softmax in them, that show what they are called with while somebody looks."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from gradbelt.belt.activations import attended, is_usual, whole_rows

Logits: TypeAlias = tuple[str, Callable[[], Tensor | None]]
"""Their kind, and what fetches some rows of them."""

Look: TypeAlias = Callable[..., Logits | None]
"""Called with the arguments of a function; None where there is nothing to be looked at."""


def _attention(
    query: Tensor,
    key: Tensor,
    _value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    _dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Logits | None:
    if not (is_usual(query) and is_usual(key)):
        return None
    return "attention", lambda: attended(query, key, attn_mask, causal=is_causal, scale=scale)


def _softmax(input: Tensor, dim: Any = None, *_: Any, **__: Any) -> Logits | None:  # noqa: A002  as torch calls it
    return ("softmax", lambda: whole_rows(input, dim)) if is_usual(input) and type(dim) is int else None


def _loss(input: Tensor, dim: Any = None, *_: Any, **__: Any) -> Logits | None:  # noqa: A002
    return ("logits", lambda: whole_rows(input, dim)) if is_usual(input) and type(dim) is int else None


def _cross_entropy(input: Tensor, *_: Any, **__: Any) -> Logits | None:  # noqa: A002
    return _loss(input, min(1, input.dim() - 1))


class Eye(Protocol):
    """Whoever looks."""

    def enters(self) -> bool:
        """A function is called; whether it is looked at."""

    def sees(self, look: Look, args: Any, kwargs: Any) -> None:
        """With these arguments."""

    def leaves(self) -> None:
        """It has returned."""


class Tap:
    """A function that also shows what it is called with, while there is somebody to look.

    However many look, one stands in its place: were each to put its own on the other's, and take it off in another
    order, they would pile up.
    """

    def __init__(self, owner: Any, name: str, look: Look) -> None:
        self.owner, self.name, self._look = owner, name, look
        self._eyes: weakref.WeakSet[Eye] = weakref.WeakSet()
        self._put_back: Callable[[], bool] | None = None

    def show(self, eye: Eye) -> Callable[[], None]:
        """Shows it to one more; the answer ends that."""
        self._eyes.add(eye)
        if self._put_back is None:
            self._put_back = self._put()
        mine = weakref.ref(eye)
        return lambda: self.end(mine())

    def end(self, eye: Eye | None) -> None:
        """One looks no more. After the last, the function is as it was found."""
        if eye is not None:
            self._eyes.discard(eye)
        if not self._eyes and self._put_back is not None and self._put_back():
            self._put_back = None

    def _put(self) -> Callable[[], bool]:
        owner, name = self.owner, self.name
        original, own = getattr(owner, name), name in vars(owner)

        @functools.wraps(original)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return original(*args, **kwargs)
            eyes = [eye for eye in self._eyes if eye.enters()]
            try:
                for eye in eyes:
                    eye.sees(self._look, args, kwargs)
                return original(*args, **kwargs)
            finally:
                for eye in eyes:
                    eye.leaves()

        def put_back() -> bool:
            if vars(owner).get(name) is not tapped:
                return False  # someone has put theirs on top: they hold ours, which does nothing while nobody looks
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
            return True

        setattr(owner, name, tapped)
        return put_back


ATTENTION = (
    Tap(functional, "scaled_dot_product_attention", _attention),
    Tap(torch, "softmax", _softmax),
    Tap(Tensor, "softmax", _softmax),  # also what functional.softmax calls
)
LOSSES = (
    # what functional.cross_entropy calls: in cross_entropy(model(x), y) itself is looked up before the model runs
    Tap(torch._C._nn, "cross_entropy_loss", _cross_entropy),
    Tap(torch, "log_softmax", _loss),
    Tap(Tensor, "log_softmax", _loss),
)
