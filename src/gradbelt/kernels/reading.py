"""A closer look at gradients: beside their norms, how large they get and how much of them is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from gradbelt._types import Floats
from gradbelt.kernels import shards
from gradbelt.kernels.foreach import CHUNK, SMALL, alike, all_numbers, everywhere, fetch, flattened, largest_of, total


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of P gradients and of the weights: float64, on the host."""

    norm: Floats  # (P,) L2
    weight: Floats  # L2 norms of the weights that were given
    total: float  # over all gradients
    peak: Floats | None = None  # (P,) largest magnitude; nan where any element is nan
    zeros: Floats | None = None  # (P,) share of elements that are exactly 0; 0 for an empty gradient


def look(gradients: Sequence[Tensor], weights: Sequence[Tensor] = (), *, closely: bool = False) -> Look:
    """What `survey` finds; with `closely` also the largest magnitude and the share of zeros of each gradient.

    Where Triton reads, those two come with the norms and are always given; elsewhere they take a second read. Neither
    is given where any tensor is a DTensor: this rank doesn't see all of it, and asking the others would cost a
    collective.

    >>> seen = look([torch.tensor([3.0, -4.0]), torch.tensor([0.0, 0.0, 1.0, float("inf")])], closely=True)
    >>> seen.peak.tolist(), seen.zeros.tolist()
    ([4.0, inf], [0.0, 0.5])
    """
    tensors, num = [*gradients, *weights], len(gradients)
    norms, counted, seen = everywhere(tensors, num)
    peak, zeros = (None, None) if seen is None else (seen[0, :num], seen[1, :num])
    if closely and peak is None and not any(map(shards.is_sharded, tensors)):
        with torch.no_grad():
            peak, zeros = extremes(all_numbers(gradients))
    return Look(norms[:num], norms[num:], total(counted), peak, zeros)


def extremes(values: Sequence[Tensor]) -> tuple[Floats, Floats]:
    """Largest magnitude of each tensor of real, dense numbers, and its share of exact zeros. At most one wait."""
    found = np.zeros((2, len(values)))
    away: dict[int, Tensor] = {}
    for (device, _), where in alike(values).items() if values else ():
        if device.type == "cpu":
            found[:, list(where)] = _extremes_on_cpu([values[index] for index in where])
        else:
            away |= {index: extremes_anywhere(values[index]) for index in where}
    if away:
        found[:, list(away)] = fetch(list(away.values())).reshape(-1, 2).T
    sizes = np.array([value.numel() for value in values], dtype=np.int64)
    return found[0], found[1] / np.maximum(sizes, 1)


def _extremes_on_cpu(values: Sequence[Tensor]) -> Floats:
    """Largest magnitude and number of zeros of each tensor of one dtype. Shape (2, P)."""
    found = np.zeros((2, len(values)))
    sizes = np.array([value.numel() for value in values])
    small = np.flatnonzero((sizes > 0) & (sizes < SMALL)).tolist()  # laid end to end, as their norms are read
    if small:
        flat = np.abs(_wide(_flatten_dense_tensors([values[index] for index in small])))  # type: ignore[no-untyped-call]
        starts = np.cumsum(sizes[small]) - sizes[small]
        found[0, small] = np.maximum.reduceat(flat, starts)
        found[1, small] = np.add.reduceat(flat == 0.0, starts, dtype=np.int64)
    for index in np.flatnonzero(sizes >= SMALL).tolist():
        # in chunks that stay in the cache from one function to the next: two thirds of the time of three full passes
        line = flattened(values[index]).view(-1)
        for start in range(0, len(line), CHUNK):
            numbers = _wide(line[start : start + CHUNK])
            found[0, index] = np.max([found[0, index], numbers.max(), -numbers.min()])  # hands a NaN on, unlike max()
            found[1, index] += np.count_nonzero(numbers == 0.0)
    return found


def extremes_anywhere(value: Tensor) -> Tensor:
    """Largest magnitude and number of zeros, shape (2,), still on the device."""
    wide = torch.float32 if value.device.type == "mps" else torch.float64
    num_zeros = value.numel() - torch.count_nonzero(value)
    return torch.stack([largest_of(value).to(wide), num_zeros.to(wide)])


def _wide(values: Tensor) -> Floats:
    """The numbers as NumPy can reckon with them: half precision becomes float32."""
    array: Floats = (values if values.dtype in (torch.float32, torch.float64) else values.float()).numpy()
    return array
