"""Gradients that lie in pieces on several ranks (DTensor: FSDP2, tensor parallelism).

A DTensor exists on every rank of its mesh, so the ranks of a mesh can add up its gradients in one all-reduce, and those
of several meshes over the same ranks with them. Ranks of a smaller mesh (a layer outside of tensor parallelism, say)
make one more, the smaller set first. What else a rank holds, only it knows: stages of a pipeline and experts differ in
it, so it is never sent one by one.

Torch's DTensor is never imported here: a script that uses it has it loaded already.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats
from gradbelt.errors import UsageError

BANDS = np.array([[2.0**600], [1.0], [2.0**-600]])
"""What small, middling and large norms are multiplied by before they are squared (Blue: A portable Fortran program to
find the Euclidean norm of a vector, 1978): sums over any number of ranks neither overflow nor vanish."""

EDGE = 2.0**400  # a norm below 1 / EDGE is small, one above EDGE large


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


def layout(tensor: Any) -> tuple[Any, Any] | None:
    """Mesh and placements of a DTensor; None of any other tensor."""
    return (tensor.device_mesh, tuple(tensor.placements)) if is_sharded(tensor) else None


def cut(tensor: Any) -> tuple[int, ...]:
    """The mesh dimensions along which a tensor lies in pieces; none where a rank has all of it."""
    if not is_sharded(tensor) or tensor.device_mesh.get_coordinate() is None:  # None: other ranks hold all of it
        return ()
    # not is_shard(): the strided shards of FSDP2 over tensor parallelism don't always answer to that name
    sharded = (dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate())
    return tuple(dim for dim in sharded if tensor.device_mesh.size(dim) > 1)


def cut_units(tensor: Any) -> tuple[int, ...]:
    """The mesh dimensions along which the rows of a matrix, or a vector, lie in pieces."""
    return tuple(dim for dim in cut(tensor) if tensor.dim() < 2 or tensor.placements[dim].dim != 0)


def over_ranks(tensors: Sequence[Any], norms: Floats, num_counted: int) -> tuple[Floats, Floats]:
    """Norms of whole gradients, from those of this rank's pieces; and norms that the first `num_counted` add up to.

    One all-reduce, of three float64 a gradient, for each set of ranks that meshes with a sharded gradient lie on; every
    one of these ranks must call. What the ranks of the largest set hold besides (gradients on meshes inside of it,
    replicated ones, plain tensors) they hold copies of: it goes into the second answer as its root mean square over the
    ranks that have any. So that is the same on all of them, to the bit, and a nan that only one of them sees is in it.
    """
    whole = norms.copy()
    sets = _in_turn(tensors, _mesh_of_pieces)
    sharded = {index for _, _, where in sets for index in where}
    apart = [index for index in range(num_counted) if index not in sharded]
    agreed = whole[apart]
    for ranks, add_up, where in sets:
        smaller = [them for those, _, them in sets if set(those) < set(ranks)]
        inside = sorted({index for them in smaller for index in them if index < num_counted})
        rest = np.concatenate([_total(whole[inside]), _total(whole[apart]), [bool(inside), bool(apart)]])
        copies = _num_copies(tensors, where, ranks)
        added = _combined(add_up(_squares(np.append(norms[where], rest)) / [*copies, 1, 1, 1, 1]))
        whole[where] = added[:-4]
        beside = sorted(sharded.difference(inside, range(num_counted, len(norms))))
        agreed = np.append(whole[beside], added[-4:-2] / np.maximum(added[-2:], 1.0))
    return whole, agreed


def powers_over_ranks(tensors: Sequence[Any], norms: Floats, p: float) -> Floats:
    """p-norms of whole gradients, from the p-norms of this rank's pieces; what isn't finite comes out as inf.

    Two all-reduces where `over_ranks` has one, so that no power leaves float64's range; one for p = inf.
    """
    norms = np.where(np.isfinite(norms), norms, np.inf)  # the largest of nan and a number depends on who asks
    whole = norms.copy()
    for ranks, add_up, where in _in_turn(tensors, _mesh_of_pieces):
        largest = add_up(norms[where], torch.distributed.ReduceOp.MAX)
        if p < math.inf:
            relative = np.divide(norms[where], largest, out=np.ones(len(where)), where=norms[where] < largest)
            relative[largest == 0.0] = 0.0
            largest *= add_up(relative**p / _num_copies(tensors, where, ranks)) ** (1.0 / p)
        whole[where] = largest
    return whole


def units_over_ranks(tensors: Sequence[Any], norms: Sequence[Floats]) -> list[Floats]:
    """Norms of the whole units of each tensor (rows, or a vector as one), from those of this rank's pieces of them.

    One all-reduce for each set of ranks that units lie in pieces on; every one of these ranks must call.
    """
    whole = list(norms)
    for _, add_up, where in _in_turn(tensors, cut_units):
        added = _combined(add_up(_squares(np.concatenate([norms[index] for index in where]))))
        ends = np.cumsum([len(norms[index]) for index in where])
        for index, mine in zip(where, np.split(added, ends[:-1]), strict=True):
            whole[index] = mine
    return whole


def _squares(norms: Floats) -> Floats:
    """Squares of norms (P,), each in the band where it neither overflows nor vanishes, 0 in the others; (3, P).

    What isn't finite is in the last band.
    """
    large = ~(norms <= EDGE)  # as NaN is
    small = norms < 1.0 / EDGE
    with np.errstate(over="ignore", invalid="ignore"):
        found: Floats = np.where([small, ~(small | large), large], np.square(norms * BANDS), 0.0)
    return found


def _combined(sums: Floats) -> Floats:
    """Norms (P,) from sums of `_squares` (3, P); what was finite stays finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        bands = np.sqrt(sums) / BANDS
        norms: Floats = np.hypot(np.hypot(bands[0], bands[1]), bands[2])  # hypot(nan, inf) is inf, but both are in [2]
    return np.where(np.isfinite(sums[2]), np.minimum(norms, sys.float_info.max), norms)


def _total(norms: Floats) -> Floats:
    """The norm over all of them, (1,)."""
    return _combined(np.sum(_squares(norms), axis=1, keepdims=True))


def _in_turn(
    tensors: Sequence[Any], dims_of: Callable[[Any], tuple[int, ...]]
) -> list[tuple[tuple[int, ...], Callable[..., Floats], list[int]]]:
    """The sets of ranks that the tensors are to be added up over: the ranks, how that is done, and which tensors.

    Smallest first, then by rank: ranks that are in several sets come to these in the same order and can't wait for each
    other in a circle. A tensor for which `dims_of` names no dimension of its mesh is in none.
    """
    found: dict[tuple[int, ...], tuple[Any, tuple[int, ...], list[int]]] = {}
    for index, tensor in enumerate(tensors):
        if dims := dims_of(tensor):
            mesh = tensor.device_mesh
            ranks = _reached(mesh, dims)
            known = found.get(ranks, (mesh, dims, []))
            known[2].append(index)
            found[ranks] = known if len(known[1]) <= len(dims) else (mesh, dims, known[2])
    return [
        (ranks, functools.partial(_add_up, found[ranks][0], found[ranks][1]), found[ranks][2])
        for ranks in sorted(found, key=lambda ranks: (len(ranks), ranks))
    ]


@functools.lru_cache(maxsize=64)
def _reached(mesh: Any, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The ranks that differ from this one only in these dimensions of a mesh, and this one; sorted."""
    here = mesh.get_coordinate()
    return tuple(
        sorted(mesh.mesh[tuple(slice(None) if dim in dims else at for dim, at in enumerate(here))].flatten().tolist())
    )


def _mesh_of_pieces(tensor: Any) -> tuple[int, ...]:
    """All dimensions of the mesh that a tensor lies in pieces on, its replicas' too: these agree then even where one of
    them went wrong."""
    mesh = tensor.device_mesh if cut(tensor) else None
    return () if mesh is None else tuple(dim for dim in range(mesh.ndim) if mesh.size(dim) > 1)


def _num_copies(tensors: Sequence[Any], where: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """How many of the ranks hold the same piece, of each tensor."""
    return [len(ranks) // math.prod(map(tensors[index].device_mesh.size, cut(tensors[index]))) for index in where]


def _add_up(mesh: Any, dims: tuple[int, ...], sums: Floats, by: Any = None) -> Floats:
    """The sums over all ranks along these dimensions of a mesh, the same to the bit on each; or what the ReduceOp `by`
    makes of them.

    One all-reduce for a single dimension or where these are all ranks there are; else one for each dimension, because
    no other group of just these ranks need exist.
    """
    there = torch.as_tensor(sums, dtype=torch.float64, device=mesh.device_type)
    everyone = len(dims) > 1 and math.prod(map(mesh.size, dims)) == torch.distributed.get_world_size()
    for group in [torch.distributed.group.WORLD] if everyone else map(mesh.get_group, dims):
        torch.distributed.all_reduce(there, torch.distributed.ReduceOp.SUM if by is None else by, group=group)
    added: Floats = there.cpu().numpy()
    return added
