"""Gradients scaled unit by unit, against the norms of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradbelt.errors import UsageError
from gradbelt.kernels import shards
from gradbelt.kernels.foreach import fetch, numbers


def clip_units_(weights: Sequence[Tensor], gradients: Sequence[Tensor], ratio: float, floor: float) -> bool:
    """Each unit of a gradient has at most `ratio` times the norm of its weights, in place; False if none was scaled.

    A weight smaller than `floor` counts as `floor`, so that one that starts at zero can move. A unit is a row of a
    matrix, a filter of a convolution (all but the first dimension), a vector as a whole. Norms are added up in float64,
    where the device has it. A gradient none of whose units is above its limit is not written; one wait for the device.

    Of sharded gradients every rank scales its pieces, and must call: units that lie in pieces themselves (vectors, rows
    under rowwise tensor parallelism) take a collective. The answer is True then, for another rank may have scaled some.

    Raises UsageError, before anything is changed, for sparse gradients, and where a weight and its gradient are not
    sharded alike.

    >>> weight, gradient = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.001, 0.0]])
    >>> clip_units_([weight], [gradient], ratio=0.1, floor=1.0)
    True
    >>> gradient
    tensor([[0.5000, 0.0000],
            [0.0010, 0.0000]])
    """
    with torch.no_grad():
        pieces = [_pieces(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]
        norms = _over_ranks(gradients, [(_norms(weight), _norms(gradient)) for weight, gradient in pieces])
        work = [
            (gradient, _factors(*sizes, ratio, floor))
            for (_, gradient), sizes in zip(pieces, norms, strict=True)
            if gradient.numel()
        ]
        above = torch.stack([(factor < 1.0).any().to(work[0][1].device) for _, factor in work]).tolist() if work else []
        for (gradient, factor), clipped in zip(work, above, strict=True):
            if clipped:
                wide = gradient.dtype in (torch.float64, torch.complex128)
                gradient.mul_(factor if wide else factor.float())
    return any(above) or any(map(shards.cut, gradients))


def _factors(weight: Tensor, gradient: Tensor, ratio: float, floor: float) -> Tensor:
    """What each unit is multiplied by, from its norms; 1 where it is within its limit, and where it is not finite."""
    limit = ratio * weight.clamp(min=floor)
    return torch.where(gradient > limit, limit / gradient, torch.ones_like(gradient))


def _over_ranks(gradients: Sequence[Tensor], norms: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Norms of whole units, of weight and gradient, from those of this rank's pieces of them."""
    where = [index for index, gradient in enumerate(gradients) if shards.cut_units(gradient)]
    if where:
        mine = [norm for index in where for norm in norms[index]]
        apart = np.split(fetch([norm.flatten() for norm in mine]), np.cumsum([norm.numel() for norm in mine])[:-1])
        whole = shards.units_over_ranks([gradients[index] for index in where for _ in range(2)], apart)
        back = [torch.as_tensor(new).to(old).view_as(old) for new, old in zip(whole, mine, strict=True)]
        for index, weight, gradient in zip(where, back[::2], back[1::2], strict=True):
            norms[index] = (weight, gradient)
    return norms


def _norms(tensor: Tensor) -> Tensor:
    """L2 norm of each unit, shaped to multiply the tensor; no square of a finite number overflows or vanishes."""
    dims = list(range(1, tensor.dim())) if tensor.dim() > 1 else list(range(tensor.dim()))
    if not tensor.numel():  # this rank's piece may be empty, and nothing has no largest element
        shape = [1 if dim in dims else size for dim, size in enumerate(tensor.shape)]
        norms = torch.zeros(shape, dtype=torch.float64 if tensor.device.type != "mps" else None, device=tensor.device)
    elif tensor.dtype not in (torch.float64, torch.complex128) and tensor.device.type != "mps":
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        norms = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=wide)
    else:
        largest = tensor.abs().amax(dim=dims, keepdim=True)
        by = torch.where(largest > 0.0, largest, torch.ones_like(largest))
        norms = by * torch.linalg.vector_norm(tensor / by, dim=dims, keepdim=True)
    return norms


def _pieces(weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What this rank has of a weight and of its gradient."""
    if shards.layout(weight) != shards.layout(gradient):
        raise UsageError(
            f"a weight of shape {tuple(weight.shape)} is sharded as {shards.layout(weight)}, its gradient as "
            f"{shards.layout(gradient)}: a row can be held against its weights only where both are sharded alike. "
            "clip.AdaGC() and clip.Each(1.0) need the gradient alone."
        )
    return _piece(weight), _piece(gradient)


def _piece(tensor: Tensor) -> Tensor:
    """This rank's numbers of a tensor, as they are laid out in units."""
    if shards.is_sharded(tensor):
        tensor = shards.local(tensor)
    if tensor.layout is not torch.strided:
        raise UsageError(
            f"a gradient with the layout {tensor.layout} has no units. clip.AdaGC() and clip.Each(1.0) clip sparse "
            'gradients, each as a whole; or leave it out: clip.AGC(exclude=("embedding.*",)).'
        )
    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or tensor.is_complex():
        return tensor
    return numbers(tensor)  # which says what is wrong with the dtype
