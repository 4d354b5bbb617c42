"""Gradients that lie in pieces on several ranks (DTensor: FSDP2, tensor parallelism).

Torch's DTensor is never imported here: a script that uses it has it loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats
from gradbelt.errors import UsageError


def is_sharded(tensor: Tensor) -> bool:
    """True for a DTensor, of whatever placement."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def local(tensor: Any) -> Tensor:
    """This rank's piece, sharing memory with the whole."""
    if any(placement.is_partial() for placement in tensor.placements):
        raise UsageError(
            f"a gradient of shape {tuple(tensor.shape)} is placed as {tensor.placements}: a Partial gradient is a sum "
            "that hasn't been taken yet, so it has no norm. Shard and Replicate work: "
            "gradient.redistribute(placements=[Replicate()]) makes one of it."
        )
    piece: Tensor = tensor.to_local()
    return piece


def over_ranks(tensors: Sequence[Any], norms: Floats) -> Floats:
    """Norms of whole gradients, from the norms of this rank's pieces.

    One all-reduce per set of gradients that share a mesh and its sharded dimensions, and per such dimension, so every
    rank must call. Replicated dimensions add nothing. The squares travel as float64: finite for norms below 1e154.
    """
    together: dict[tuple[Any, tuple[int, ...]], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if is_sharded(tensor):
            # not is_shard(): the strided shards of FSDP2 over tensor parallelism don't always answer to that name
            dims = tuple(dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate())
            together.setdefault((tensor.device_mesh, dims), []).append(index)
    whole = norms
    for (mesh, dims), where in together.items():
        if not dims:
            continue
        squares = torch.as_tensor(np.square(norms[where]), dtype=torch.float64, device=mesh.device_type)
        for dim in dims:
            torch.distributed.all_reduce(squares, group=mesh.get_group(dim))
        whole = whole.copy() if whole is norms else whole
        whole[where] = np.sqrt(squares.cpu().numpy())
    return whole


def powers_over_ranks(tensors: Sequence[Any], norms: Floats, p: float) -> Floats:
    """p-norms of whole gradients, from the p-norms of this rank's pieces: as `over_ranks`, with two all-reduces where
    that has one, so that no power leaves float64's range."""
    together: dict[tuple[Any, tuple[int, ...]], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if is_sharded(tensor):
            dims = tuple(dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate())
            together.setdefault((tensor.device_mesh, dims), []).append(index)
    whole = norms.copy()
    for (mesh, dims), where in together.items():
        found = torch.as_tensor(norms[where], dtype=torch.float64, device=mesh.device_type)
        for dim in dims:
            largest = found.clone()
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=mesh.get_group(dim))
            if p < float("inf"):
                found = torch.where(largest > 0.0, found / largest, found) ** p
                torch.distributed.all_reduce(found, group=mesh.get_group(dim))
                largest = largest * found ** (1.0 / p)
            found = largest
        whole[where] = found.cpu().numpy()
    return whole
