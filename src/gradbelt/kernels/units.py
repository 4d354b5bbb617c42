"""Gradients scaled unit by unit, against the norms of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradbelt.errors import UsageError
from gradbelt.kernels import shards
from gradbelt.kernels.foreach import numbers


def clip_units_(weights: Sequence[Tensor], gradients: Sequence[Tensor], ratio: float, floor: float) -> bool:
    """Each unit of a gradient has at most `ratio` times the norm of its weights, in place; True if any was scaled.

    A weight smaller than `floor` counts as `floor`, so that one that starts at zero can move. A unit is a row of a
    matrix, a filter of a convolution (all but the first dimension), a vector as a whole. Norms are added up in float64,
    where the device has it. A gradient none of whose units is above its limit is not written; one wait for the device.

    Raises UsageError, before anything is changed, for sparse gradients and for those in pieces over several ranks.

    >>> weight, gradient = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.001, 0.0]])
    >>> clip_units_([weight], [gradient], ratio=0.1, floor=1.0)
    True
    >>> gradient
    tensor([[0.5000, 0.0000],
            [0.0010, 0.0000]])
    """
    with torch.no_grad():
        pairs = [(_whole(weight), _whole(gradient)) for weight, gradient in zip(weights, gradients, strict=True)]
        pairs = [(weight, gradient) for weight, gradient in pairs if gradient.numel()]
        if not pairs:
            return False
        factors = [_factors(weight, gradient, ratio, floor) for weight, gradient in pairs]
        above = torch.stack([(factor < 1.0).any().to(factors[0].device) for factor in factors]).tolist()
        for (_, gradient), factor, clipped in zip(pairs, factors, above, strict=True):
            if clipped:
                wide = gradient.dtype in (torch.float64, torch.complex128)
                gradient.mul_(factor if wide else factor.float())
    return any(above)


def _factors(weight: Tensor, gradient: Tensor, ratio: float, floor: float) -> Tensor:
    """What each unit is multiplied by; 1 where it is within its limit, and where it is not finite."""
    limit = ratio * _norms(weight).clamp_(min=floor)
    norm = _norms(gradient)
    return torch.where(norm > limit, limit / norm, torch.ones_like(norm))


def _norms(tensor: Tensor) -> Tensor:
    """L2 norm of each unit, shaped to multiply the tensor; no square of a finite number overflows or vanishes."""
    dims = list(range(1, tensor.dim())) if tensor.dim() > 1 else list(range(tensor.dim()))
    if tensor.dtype not in (torch.float64, torch.complex128) and tensor.device.type != "mps":
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=wide)
    else:
        largest = tensor.abs().amax(dim=dims, keepdim=True)
        by = torch.where(largest > 0.0, largest, torch.ones_like(largest))
        norms = by * torch.linalg.vector_norm(tensor / by, dim=dims, keepdim=True)
    return norms


def _whole(tensor: Tensor) -> Tensor:
    """The tensor's numbers as they are laid out in units."""
    if shards.is_sharded(tensor):
        if any(not placement.is_replicate() for placement in tensor.placements):  # type: ignore[attr-defined]
            raise UsageError(
                f"a unit of a parameter of shape {tuple(tensor.shape)} can lie in pieces on several ranks, so its norm "
                "is not known here. clip.AdaGC() and clip.Each(1.0) clip sharded parameters, each as a whole."
            )
        return shards.local(tensor)
    if tensor.layout is not torch.strided:
        raise UsageError(
            f"a gradient with the layout {tensor.layout} has no units. clip.AdaGC() and clip.Each(1.0) clip sparse "
            'gradients, each as a whole; or leave it out: clip.AGC(exclude=("embedding.*",)).'
        )
    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or tensor.is_complex():
        return tensor
    return numbers(tensor)  # which says what is wrong with the dtype
