"""A few thousand numbers of each activation, taken on its device; and what they say, on the host.

An activation is seen as rows and units: a unit is what one feature or channel puts out, a row is all units at one
place of one example. Rows and units are taken at even strides, so no random number is drawn, and the same places are
looked at each time. A softmax is seen by whole rows, because only these have an entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradbelt import kernels
from gradbelt._types import Activation, Floats
from gradbelt.kernels.foreach import PLAIN, REAL

ROWS, UNITS = 64, 64  # of an activation, at most
LOGITS = 2**15  # that go into softmax, at most, unless a single row is longer
LONGEST = 2**18  # a longer row is passed over
HIDDEN = -9e3  # a logit at or below it is one that a mask hides: -inf, -1e4, -1e9, the least of a format

KINDS = {
    "Relu": "relu", "Hardtanh": "relu", "Threshold": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Gelu": "gelu",
    "Silu": "silu", "LeakyRelu": "leaky_relu", "Elu": "elu", "Softplus": "softplus", "Mish": "mish",
}  # fmt: skip
"""Functions by the name of their node in the autograd graph, which is how they are told where no module made them."""

CHANNELS_FIRST = ("Convolution", "BatchNorm")
"""Nodes whose outputs have their units in the second dimension, also where there are only three."""

LEVEL: Mapping[str, Callable[[Floats], Any]] = {
    "tanh": lambda y: 1.0 - np.square(y) < 0.02,
    "sigmoid": lambda y: y * (1.0 - y) < 0.02 * 0.25,
}
"""Where a function, by its value, has less than 2 % of its largest slope."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Numbers of one activation, on their device: a grid of (rows, units), or what `of_rows` says of logits."""

    about: Activation
    numbers: Tensor


def is_usual(value: object) -> bool:
    """Whether it is a plain, dense tensor of real numbers that lie somewhere: no fake or vmapped one."""
    return (
        type(value) in PLAIN
        and isinstance(value, Tensor)
        and value.dtype in REAL
        and value.layout is torch.strided
        and value.device.type != "meta"
        and value.numel() > 1
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def kind_of(value: Tensor) -> str:
    """The function that made it, "" for one that is not among KINDS or where no graph is kept."""
    return "" if value.grad_fn is None else KINDS.get(_operation(value.grad_fn), "")


def grid(value: Tensor) -> Tensor:
    """At most (ROWS, UNITS) of its numbers, a copy in float32.

    >>> grid(torch.arange(6.0).reshape(2, 3)).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    >>> grid(torch.zeros(8, 96, 32, 32)).shape
    torch.Size([64, 48])
    """
    channels_first = _channels_first(value)
    value = value.detach()
    value = value.unsqueeze(-1) if value.dim() < 2 else value.movedim(1, -1) if channels_first else value
    *sizes, units = value.shape
    strides = (*_strides(sizes, ROWS), math.ceil(units / UNITS))
    few = value[tuple(slice(None, None, stride) for stride in strides)]
    return few.reshape(-1, few.shape[-1]).to(torch.float32, copy=True)


def of_rows(logits: Tensor) -> Tensor:
    """Of rows of logits (..., n): rms and peak of what no mask hides, entropy, share of rows that are flat. Shape (4,).

    The entropy of softmax is over ln of the number of logits not hidden, a mean over the rows that have two or more. A
    row is flat where its largest probability p leaves a slope p (1 - p) below 1 %. nan where there is nothing to say.

    >>> of_rows(torch.tensor([[0.0, 0.0, -math.inf], [50.0, 0.0, 0.0], [4.0, 0.0, -1e9]])).tolist()[1:]
    [50.0, 0.3766..., 0.3333...]
    """
    logits = logits.float()
    shown = logits > HIDDEN
    count = shown.sum(-1)
    values = torch.where(shown, logits, torch.zeros_like(logits))
    # a mask of -1e4 and one of -inf weigh the same, and no 0 * inf comes about
    log_p = torch.log_softmax(torch.where(shown, logits, torch.full_like(logits, -1e30)), -1)
    p = log_p.exp()
    entropy = -(p * log_p.clamp(min=-1e4)).sum(-1) / count.clamp(min=2).log()
    choosing = (count >= 2).float()
    rows = choosing.sum()
    # 0 / 0 where no row has a choice: nan
    return torch.stack(
        [
            (values.square().sum() / count.sum()).sqrt(),
            values.abs().amax(),
            (entropy * choosing).sum() / rows,
            ((p.amax(-1) > 0.99).float() * choosing).sum() / rows,
        ]
    )


def whole_rows(logits: Tensor, dim: int) -> Tensor | None:
    """Some rows along `dim`, whole; None where one is too long to be looked at.

    >>> whole_rows(torch.zeros(64, 8, 128, 128), -1).shape
    torch.Size([4, 8, 8, 128])
    """
    logits = logits.detach().movedim(dim, -1)
    *sizes, length = logits.shape
    if length < 2 or length > LONGEST:
        return None
    strides = _strides(sizes, max(1, LOGITS // length))
    return logits[tuple(slice(None, None, stride) for stride in strides)]


def attended(query: Tensor, key: Tensor, mask: Tensor | None, *, causal: bool, scale: float | None) -> Tensor | None:
    """Some rows of the logits of an attention that never shows them: query and key (..., heads, length, width).

    Of each head a few queries, against all keys. None where its rows are too long.
    """
    query, key = query.detach(), key.detach()
    *batch, length, width = query.shape
    keys = key.shape[-2]
    if keys < 2 or keys > LONGEST:
        return None
    *strides, stride = _strides([*batch, length], max(1, LOGITS // keys))
    heads = tuple(slice(None, None, each) for each in strides)
    query = query[(*heads, slice(None, None, stride))].float()
    if batch and key.shape[-3] != batch[-1]:  # grouped queries: several heads share a key
        shared = torch.arange(0, batch[-1], strides[-1], device=key.device) // (batch[-1] // key.shape[-3])
        key = key[heads[:-1]].index_select(-3, shared)
    else:
        key = key[heads]
    with torch.autocast(query.device.type, enabled=False):
        logits = query @ key.float().mT * (1.0 / math.sqrt(width) if scale is None else scale)
    if causal:
        at = torch.arange(0, length, stride, device=logits.device)
        after = torch.arange(keys, device=logits.device) > at.unsqueeze(-1)
        logits = logits.masked_fill(after, -math.inf)
    if mask is not None:
        mask = mask.detach()[(None,) * (query.dim() - mask.dim())]
        thin = zip((*strides, stride), mask.shape[:-1], strict=True)
        mask = mask[tuple(slice(None, None, each if size > 1 else 1) for each, size in thin)]
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else logits + mask.float()
    return logits


def send(taken: Sequence[Taken]) -> Callable[[], tuple[Activation, ...]]:
    """All on their way to the host, without waiting; the answer says what they are."""
    arrived = kernels.send([each.numbers for each in taken])
    shapes = [tuple(each.numbers.shape) for each in taken]
    return lambda: tuple(_said([each.about for each in taken], shapes, arrived()))


def _said(about: Sequence[Activation], shapes: Sequence[tuple[int, ...]], numbers: Floats) -> Iterator[Activation]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    for known, shape, end in zip(about, shapes, ends.tolist(), strict=True):
        part = numbers[end - math.prod(shape) : end]
        if len(shape) == 1:
            said = dict(zip(("rms", "peak", "entropy", "flat"), part.tolist(), strict=True))
        else:
            said = _of_grid(known.kind, part.reshape(shape))
        stats = {name: float(np.float32(value)) for name, value in said.items()}
        yield Activation(name=known.name, kind=known.kind, **stats)


def _of_grid(kind: str, values: Floats) -> dict[str, float]:
    zero = values == 0.0
    said = {
        "rms": math.sqrt(float(np.square(values).mean())),  # float64 holds every square of a float32
        "peak": float(np.abs(values).max()),
        "zeros": float(zero.mean()),
    }
    if kind == "relu":
        said["dead"] = float(zero.all(axis=0).mean())
    if kind in LEVEL:
        said["flat"] = float(LEVEL[kind](values).mean())
    return said


def _strides(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """A stride for each dimension, so that they leave at most `most` places; the longest is thinned first.

    >>> _strides((8, 128), 64)
    (1, 16)
    """
    strides = [1] * len(sizes)
    left = list(sizes)
    while math.prod(left) > most:
        longest = max(range(len(sizes)), key=left.__getitem__)
        strides[longest] *= 2
        left[longest] = math.ceil(sizes[longest] / strides[longest])
    return tuple(strides)


def _channels_first(value: Tensor) -> bool:
    """Whether its units lie in the second dimension, as images have them, and what a convolution makes of sequences."""
    if value.dim() != 3 or value.grad_fn is None:
        return value.dim() > 3
    before = (node for node, _ in value.grad_fn.next_functions if node is not None)
    made = {_operation(node) for node in (value.grad_fn, *before)}
    return any(kind in operation for kind in CHANNELS_FIRST for operation in made)


def _operation(node: Any) -> str:
    """What a node of the graph did: Relu, for a ReluBackward0."""
    return str(node.name()).partition("Backward")[0]
