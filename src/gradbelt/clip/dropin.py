"""torch.nn.utils' clipping functions: same names, arguments, arithmetic and return values.

    from gradbelt import clip_grad_norm_          # instead of torch.nn.utils.clip_grad_norm_

What is different, always:

- CPU gradients that need no clipping are not written, and a large CPU gradient's norm is right to 1e-5 (torch 2.13 is
  1 % off at 1e8 elements). On CUDA the multiplication is unconditional, as in torch: to leave it out, the host would
  have to wait for the norm.
- A gradient that is passed twice (tied weights collected over modules) counts once and is scaled once.
- Sparse gradients work; clip_grad_norm_ takes empty ones with any norm; half-precision norms are added up in float32.
- A negative or nan max_norm raises ValueError; torch would reverse the gradients or fill them with nan.
- `foreach` is accepted and means nothing: the faster way is taken on every device.
- Gradients passed in place of parameters, which torch leaves unclipped without a word, draw a warning.

Where torch's arithmetic and safe arithmetic part, `strict` decides:

|                              | strict=True (torch)                     | strict=False                             |
|------------------------------|-----------------------------------------|------------------------------------------|
| a gradient with nan or inf   | nan or 0 goes into every gradient       | gradients stay as they are               |
| finite, squares overflow     | norm inf, every gradient becomes 0      | true norm, clipped to max_norm           |
| denominator                  | norm + 1e-6                             | norm                                     |
| half-precision norm          | returned in that dtype, can be inf      | returned in float32                      |
| waits for a CUDA device      | no (with error_if_nonfinite: once)      | once                                     |

The norm of DTensors is torch's own under strict=True, a DTensor itself; strict=False answers a plain tensor, and also
takes several meshes, and plain tensors among them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad

from gradbelt import kernels
from gradbelt.clip.order import one, together
from gradbelt.errors import BuckleWarning, NonFinite, UsageError
from gradbelt.kernels import foreach as fast
from gradbelt.kernels import shards

# held from now on: whoever sets torch.nn.utils.clip_grad_norm_ to ours must not send us round in a circle
_torchs_clip_grad_norm_ = clip_grad.clip_grad_norm_
_torchs_total_norm = getattr(clip_grad, "_get_total_norm", None)  # torch 2.6


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    strict: bool = True,
) -> Tensor:
    """The gradients of `parameters`, taken as one vector, have a p-norm of at most `max_norm`; direction is kept.

    Returns the norm before clipping, a 0-dim tensor on the device of the first gradient (0.0 where there are none).
    Raises NonFinite (a RuntimeError, with torch's text and the first bad gradient) if `error_if_nonfinite` and the norm
    is nan or inf; the gradients are then unchanged. `strict` is explained at the top of this module.

    Source: torch.nn.utils.clip_grad_norm_, torch 2.13.

    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([p], max_norm=1.0)
    tensor(5.)
    >>> p.grad
    tensor([0.6000, 0.8000])
    """
    max_norm = _limit(max_norm, "max_norm")
    if isinstance(parameters, types.GeneratorType):
        parameters = list(parameters)
        if not parameters:
            warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2)
    grads = _gradients(parameters)
    with torch.no_grad():
        if strict and any(shards.is_sharded(grad) for grad in grads):
            with _pointing_to_strict(grads):
                return _torchs_clip_grad_norm_(_owners(grads), max_norm, norm_type, error_if_nonfinite, foreach)
        norm = get_total_norm(grads, norm_type, error_if_nonfinite, foreach, strict=strict)
        _scale(grads, max_norm, norm, strict)
    return norm


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    strict: bool = True,
) -> Tensor:
    """The p-norm of all `tensors` taken as one vector; 0-dim, on the first tensor's device.

    Each tensor counts as often as it is passed. p may be inf, 0 or negative, as in torch. Raises NonFinite if
    `error_if_nonfinite` and the norm is nan or inf.

    Source: torch.nn.utils.get_total_norm, torch 2.6.

    >>> get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    tensor(5.)
    >>> get_total_norm([torch.full((2,), 3e19), torch.full((2,), 4e19)], strict=False)
    tensor(7.0711e+19)
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    norm_type = float(norm_type)
    if not tensors:
        return torch.tensor(0.0)
    with torch.no_grad():
        if strict and _torchs_total_norm is not None and any(shards.is_sharded(tensor) for tensor in tensors):
            with _pointing_to_strict(tensors):
                total: Tensor = _torchs_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
            return total
        norm = _norm_as_torch(tensors, norm_type) if strict or norm_type <= 0.0 else _safe_norm(tensors, norm_type)
        if error_if_nonfinite and not math.isfinite(norm.item()):
            raise NonFinite(
                f"The total norm of order {norm_type} for gradients from "
                "`parameters` is non-finite, so it cannot be clipped. To disable "
                "this error and scale the gradients by the non-finite norm anyway, "
                f"set `error_if_nonfinite=False`. {_culprit(tensors)}"
            )
    return norm


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
    *,
    strict: bool = True,
) -> None:
    """The gradients of `parameters` are multiplied by max_norm / total_norm where that is below 1.

    For a norm taken before, by `get_total_norm`, over more gradients than are scaled here (pipeline stages, groups).

    Source: torch.nn.utils.clip_grads_with_norm_, torch 2.6.

    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3.0, 4.0])
    >>> clip_grads_with_norm_(p, 1.0, total_norm=torch.tensor(10.0))
    >>> p.grad
    tensor([0.3000, 0.4000])
    """
    del foreach
    with torch.no_grad():
        _scale(_gradients(parameters), _limit(max_norm, "max_norm"), total_norm, strict)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Every element of the gradients of `parameters` lies in [-clip_value, clip_value]; nan stays nan.

    Raises ValueError for a negative or nan clip_value, and for complex gradients, which have no order.

    Source: torch.nn.utils.clip_grad_value_, torch 2.13.

    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3.0, -0.2])
    >>> clip_grad_value_(p, 0.5)
    >>> p.grad
    tensor([ 0.5000, -0.2000])
    """
    del foreach
    kernels.clamp_(_gradients(parameters), _limit(clip_value, "clip_value"))


def raw_gradients(parameters: Sequence[Any]) -> bool:
    """Whether these are gradients, not parameters that have some: nothing would be clipped, without a word.

    >>> raw_gradients([torch.ones(2)]), raw_gradients([torch.nn.Parameter(torch.ones(2))]), raw_gradients([])
    (True, False, False)
    """
    # a frozen parameter has no gradient either, but is a Parameter; a tensor with a history warns when asked for .grad
    return bool(parameters) and all(
        not getattr(each, "requires_grad", True) and each.grad is None and not isinstance(each, torch.nn.Parameter)
        for each in parameters
    )


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """Each gradient once, in order."""
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if raw_gradients(parameters):
        warnings.warn(
            f"none of the {len(parameters)} tensors has a gradient or requires one, so nothing is clipped: pass the "
            "parameters, not their gradients.",
            BuckleWarning,
            stacklevel=3,
        )
    return list({id(grad): grad for grad in [p.grad for p in parameters] if grad is not None}.values())


def _limit(value: float, what: str) -> float:
    number = float(value)
    if number >= 0.0:  # NaN is not
        return number
    raise UsageError(f"{what} is {number}: it must be a number, 0 or above; inf never clips.")


def _norm_as_torch(tensors: Sequence[Tensor], p: float) -> Tensor:
    """Torch's formula in torch's result dtype: the p-norm of the p-norms; nothing is looked at twice."""
    values = fast.all_numbers(tensors) if p == 2.0 else [_elements(tensor) for tensor in tensors]
    home = tensors[0].device
    each: list[Tensor] = []
    for (device, dtype), where in fast.alike(values).items():
        mine = [values[index] for index in where]
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        if p == 2.0 and device.type == "cpu":
            norms = torch.from_numpy(fast.on_cpu(mine, wide)).to(wide)
        elif p == 2.0:
            norms = torch.stack(fast.norm_each(mine, wide))
        elif p == math.inf:
            norms = torch.stack([fast.largest_of(value.abs() if value.is_complex() else value) for value in mine])
        else:
            norms = torch.stack(list(torch._foreach_norm(mine, p)))
        each.append(norms.to(home))
    norm: Tensor = torch.linalg.vector_norm(torch.cat(each), p)
    dtypes = [dtype.to_real() for dtype in {tensor.dtype for tensor in tensors}]
    return norm.to(functools.reduce(torch.promote_types, dtypes))


def _safe_norm(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The true p-norm, in float32 or wider; inf and nan only where a gradient holds them."""
    if p == 2.0:
        _, _, norm = kernels.survey(tensors)
    else:
        norms = kernels.read_p(tensors, p)
        norm = float(together(norms, p, one(len(norms)))[0] if np.isfinite(norms).all() else norms.max())
    fits = not any(tensor.dtype in (torch.float64, torch.complex128) for tensor in tensors)
    # a norm above 3.4e38 can come from finite float32 gradients; only float64 holds it
    dtype = torch.float32 if fits and not torch.finfo(torch.float32).max < norm < math.inf else torch.float64
    return torch.tensor(norm, dtype=dtype, device=tensors[0].device)


def _elements(tensor: Tensor) -> Tensor:
    """The elements of a dense or sparse tensor; a complex one stays complex, for its p-norm is over magnitudes."""
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce()._values()
    return tensor if tensor.layout is torch.strided else tensor.values()


def _scale(grads: Sequence[Tensor], max_norm: float, norm: Any, strict: bool) -> None:
    norm = norm.full_tensor() if shards.is_sharded(norm) else norm
    if strict:
        _scale_as_torch(grads, max_norm, norm)
    elif max_norm < (value := float(norm)) < math.inf:
        kernels.scale_(grads, max_norm / value)


def _scale_as_torch(grads: Sequence[Tensor], max_norm: float, norm: Tensor) -> None:
    if not grads:
        return
    coefficient = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    # item() is free on CPU; on CUDA it would make the host wait, so there a multiplication by 1 is the cheaper evil
    if norm.device.type == "cpu" and coefficient.item() == 1.0:
        return
    values = fast.all_numbers(grads, summed=False)
    for (device, _), where in fast.alike(values).items():
        torch._foreach_mul_([values[index] for index in where], coefficient.to(device))


def _culprit(tensors: Sequence[Tensor]) -> str:
    bad = kernels.what_is_bad(tensors, kernels.read(tensors))
    if not bad:
        return "All gradients are finite: their squares overflow; strict=False takes such norms."
    index, what = next(iter(bad.items()))
    return f"{len(bad)} of {len(tensors)} gradients are not finite, first number {index} ({what})."


@contextlib.contextmanager
def _pointing_to_strict(tensors: Sequence[Tensor]) -> Iterator[None]:
    """An error of torch's about several meshes, or plain tensors among DTensors, says what takes them."""
    try:
        yield
    except RuntimeError as error:
        if len({str(layout and layout[0]) for layout in map(shards.layout, tensors)}) > 1:
            error.add_note("strict=False takes gradients on several meshes, and plain tensors among them.")
        raise


def _owners(grads: Sequence[Tensor]) -> list[Any]:
    """Stand-ins for parameters that have these gradients, for torch's own function."""
    return [types.SimpleNamespace(grad=grad) for grad in grads]
