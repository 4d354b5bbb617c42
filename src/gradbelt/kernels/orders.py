"""Gradients' norms of any order, for the rules that ask for another than 2."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats
from gradbelt.kernels import shards
from gradbelt.kernels.foreach import alike, fetch, largest_of, numbers, power_of_two

PIECE = 2**20  # elements that are scaled and raised to a power at a time in the second look


def read_p(tensors: Sequence[Tensor], p: float) -> Floats:
    """p-norm of each gradient, p > 0 or inf. Shape (P,), float64, on the host.

    (sum |x|^p)^(1/p), for p = inf the largest |x|; the magnitude of a complex element counts. Sums are taken in
    float64, where the device has it. A norm whose sum may have left that range is taken again, relative to the largest
    element, so a finite gradient never has an infinite norm and a non-zero one never a norm of 0; one that no float64
    holds (p far below 1) comes out as the largest there is. Takes what `read` takes, DTensors included (then every rank
    must call), and waits for the device once, twice more where a norm is taken again.

    >>> read_p([torch.tensor([3.0, -4.0]), torch.tensor([3 + 4j, 0]), torch.zeros(0)], 1).tolist()
    [7.0, 5.0, 0.0]
    >>> float(read_p([torch.full((8,), 1e200, dtype=torch.float64)], 3)[0])
    2e+200
    """
    norms: Floats = np.zeros(len(tensors))
    with torch.no_grad():
        values = [elements(tensor) for tensor in tensors]
        taken = [index for index, value in enumerate(values) if value.numel()]
        pieces: list[Tensor] = []
        order: list[int] = []
        trusted = np.zeros(len(tensors), dtype=bool)
        for (device, dtype), where in alike([values[index] for index in taken]).items():
            same = [taken[index] for index in where]
            wide = torch.float32 if device.type == "mps" else torch.float64
            found = torch._foreach_norm([values[index] for index in same], p, dtype=_as_wide(dtype, wide))
            pieces.append(torch.stack(list(found)))
            order += same
        if order:
            norms[order] = fetch(pieces)
            trusted[order] = [_trusted(norm, p, values[index]) for index, norm in zip(order, norms[order], strict=True)]
        again = [index for index in order if not trusted[index]]
        if again:
            norms[again] = _second_look([values[index] for index in again], p)
        if any(map(shards.is_sharded, tensors)):
            norms = shards.powers_over_ranks(tensors, norms, p)
    return norms


def elements(tensor: Tensor) -> Tensor:
    """The elements of a gradient, sharing its memory, duplicate sparse entries added; a complex one stays complex."""
    if shards.is_sharded(tensor):
        return elements(shards.local(tensor))
    if tensor.layout is torch.sparse_coo:
        return elements(tensor.coalesce()._values())
    if tensor.layout is not torch.strided:
        return elements(tensor.values().detach())  # see foreach.numbers
    return tensor if tensor.is_complex() else numbers(tensor)  # which refuses a dtype that has no norm


def _as_wide(dtype: torch.dtype, wide: torch.dtype) -> torch.dtype:
    return wide if not dtype.is_complex else torch.complex64 if wide is torch.float32 else torch.complex128


def _trusted(norm: float, p: float, value: Tensor) -> bool:
    """Whether no power of an element, nor their sum, can have left the range that it was taken in."""
    if not 0.0 < norm < math.inf:
        return False
    if p == math.inf:
        return True
    range_ = torch.finfo(torch.float32 if value.device.type == "mps" else torch.float64)
    level = p * math.log(norm)  # of the sum: elements whose power underflowed are then too small to count
    return math.log(range_.tiny) * 0.8 < level < math.log(range_.max) * 0.9


def _second_look(values: Sequence[Tensor], p: float) -> Floats:
    """Norms relative to the largest element; at most two waits."""
    parts = [torch.view_as_real(value.resolve_conj()) if value.is_complex() else value for value in values]
    norms = fetch([largest_of(part).view(1) for part in parts])
    where = np.flatnonzero((norms > 0.0) & (norms < np.inf)).tolist()
    if where:
        scales = np.array([power_of_two(norms[index]) for index in where])
        sums = fetch([_powers(parts[index], values[index].is_complex(), scale, p).view(1)
                      for index, scale in zip(where, scales.tolist(), strict=True)])  # fmt: skip
        with np.errstate(over="ignore"):
            norms[where] = np.minimum(scales * (sums if p == math.inf else sums ** (1.0 / p)), sys.float_info.max)
    return norms


def _powers(part: Tensor, is_complex: bool, scale: float, p: float) -> Tensor:
    """Sum of (|x| / scale)^p over the elements, for p = inf the largest |x| / scale. 0-dim."""
    wide = torch.float32 if part.device.type == "mps" else torch.float64
    flat = part.reshape(-1, 2) if is_complex else part.reshape(-1, 1)
    pieces = [flat[start : start + PIECE].to(wide) / scale for start in range(0, len(flat), PIECE)]
    sizes = [torch.linalg.vector_norm(piece, dim=1) for piece in pieces]
    if p == math.inf:
        return torch.stack([size.max() for size in sizes]).max()
    return torch.stack([(size**p).sum() for size in sizes]).sum()
