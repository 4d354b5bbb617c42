"""The one read as a Triton kernel: norm, largest magnitude, zeros, nan and inf of many tensors, left on the device.

Imports `triton`, so import it only where that is installed; `kernels.look` does, and does without where it can't.

Two launches a dtype, whatever the number of tensors, and no atomics, so the same numbers give the same bits:

    chunks    one program per `CHUNK` numbers: five partial figures in float64
    tensors   one program per tensor adds up its chunks, in their order

A square can leave the range of the number it was squared in. As in Blue's algorithm (ACM TOMS 4, 1978; Anderson,
Algorithm 978, 2017) each magnitude is therefore added to one of three sums: the large ones scaled down, the small ones
scaled up, the others as they are, all by powers of two, which round nothing. float64 throughout would be shorter, but
consumer cards do it at 1/64 of the speed of float32; scaling by the largest of a block needs that known first, which
is an exchange between all threads for every block. Float32 adds up at most CHUNK / BLOCK = 8 squares in a row.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from gradbelt.errors import UsageError
from gradbelt.kernels.foreach import alike, all_numbers, flattened

CHUNK = 2**14  # numbers one program reads; 14 M of them keep all processors of a large GPU busy several times over
BLOCK = 2**11  # of them at a time: eight for each of 256 threads
PARTS = 2**9  # chunks added up at a time
NUM_WARPS = 8

ALIGNMENT = 16  # bytes one thread loads at once, where all tensors begin at a multiple of them (torch's do)

RANGES = {
    # above HIGH a magnitude is multiplied by DOWN, below LOW by UP, so that no square overflows or vanishes
    tl.float32: {"HIGH": 2.0**50, "DOWN": 2.0**-80, "LOW": 2.0**-50, "UP": 2.0**90},
    tl.float64: {"HIGH": 2.0**480, "DOWN": 2.0**-600, "LOW": 2.0**-480, "UP": 2.0**600},
}
DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@dataclass(frozen=True, slots=True)
class Survey:
    """What one read gave for each of P tensors, on their device. `rows` has shape (5, P), float64."""

    rows: Tensor

    @property
    def norm(self) -> Tensor:
        """L2 norm; nan if any element is nan, else inf if any is inf, else finite. Shape (P,)."""
        return self.rows[0]

    @property
    def peak(self) -> Tensor:
        """Largest magnitude; nan if any element is nan, 0 for an empty tensor. Shape (P,)."""
        return self.rows[1]

    @property
    def zeros(self) -> Tensor:
        """Share of elements that are exactly 0, of an empty tensor 0. Shape (P,)."""
        return self.rows[2]

    @property
    def nan(self) -> Tensor:
        """Whether any element is nan. Shape (P,), bool."""
        return self.rows[3] > 0.0

    @property
    def inf(self) -> Tensor:
        """Whether any element is inf. Shape (P,), bool."""
        return self.rows[4] > 0.0


def survey(tensors: Sequence[Tensor]) -> Survey:
    """Each tensor is read once; what that gave is on the device, and the host has waited for nothing.

    Takes what `kernels.read` takes, all on one device; of a DTensor it reads this rank's piece. A complex element
    counts as two numbers, a sparse tensor as its stored entries. Tensors that don't lie in one piece are copied first.

    Raises UsageError for tensors on several devices, and where `kernels.read` does.
    """
    with torch.no_grad():
        values = [flattened(value).contiguous() for value in all_numbers(tensors)]
        if len(devices := {value.device for value in values}) > 1:
            raise UsageError(f"a survey is of one device, not of {sorted(map(str, devices))}: call it once for each.")
        device = devices.pop() if devices else torch.device("cpu")
        rows = torch.empty((5, len(values)), dtype=torch.float64, device=device)
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            for (_, dtype), where in alike(values).items() if values else ():
                _read([values[index] for index in where], dtype, tuple(where), rows)
    return Survey(rows)


def _read(values: Sequence[Tensor], dtype: torch.dtype, columns: tuple[int, ...], rows: Tensor) -> None:
    addresses = tuple(value.data_ptr() for value in values)
    sizes = tuple(value.numel() for value in values)
    stream = torch.cuda.current_stream().cuda_stream if rows.is_cuda else 0
    table, num_chunks = _table(addresses, sizes, columns, dtype.itemsize, rows.device, stream)
    wide = tl.float64 if dtype is torch.float64 else tl.float32
    parts = torch.empty((5, num_chunks), dtype=torch.float64, device=rows.device)
    if num_chunks:
        _chunks[(num_chunks,)](
            table, parts, num_chunks, DTYPE=DTYPES[dtype], WIDE=wide, BLOCK=BLOCK,
            ALIGNMENT=ALIGNMENT if all(address % ALIGNMENT == 0 for address in addresses) else dtype.itemsize,
            num_warps=NUM_WARPS, **RANGES[wide],
        )  # fmt: skip
    _tensors[(len(values),)](
        table, parts, rows, num_chunks, len(values), rows.shape[1], DOWN=RANGES[wide]["DOWN"], UP=RANGES[wide]["UP"],
        LARGEST=sys.float_info.max, PARTS=PARTS,
    )  # fmt: skip


@lru_cache(maxsize=8)
def _table(
    addresses: tuple[int, ...],
    sizes: tuple[int, ...],
    columns: tuple[int, ...],
    width: int,
    device: torch.device,
    stream: int,  # noqa: ARG001 - a table belongs to the stream it was copied on: another might read it too early
) -> tuple[Tensor, int]:
    """Where the numbers lie, on the device, and the number of chunks. Gradients mostly lie where they lay before.

    Of each chunk its address and how many numbers it has; of each tensor its first chunk, the one after its last, its
    size and the column its figures go to.
    """
    start_of, size_of = np.array(addresses, dtype=np.int64), np.array(sizes, dtype=np.int64)
    num_chunks = -(-size_of // CHUNK)
    after = np.cumsum(num_chunks)
    first = after - num_chunks
    owner = np.repeat(np.arange(len(sizes)), num_chunks)
    begin = (np.arange(len(owner)) - first[owner]) * CHUNK
    parts = [start_of[owner] + begin * width, np.minimum(size_of[owner] - begin, CHUNK), first, after, size_of]
    table = torch.from_numpy(np.concatenate([*parts, np.array(columns, dtype=np.int64)]))
    # from pinned memory the copy is one more thing in the stream; from any other the host would wait for it
    return (table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table), len(owner)


@triton.jit(do_not_specialize=["num_chunks"])
def _chunks(
    table, parts, num_chunks,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, ALIGNMENT: tl.constexpr,
    HIGH: tl.constexpr, DOWN: tl.constexpr, LOW: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    numbers = tl.multiple_of(tl.load(table + chunk).to(tl.pointer_type(DTYPE)), ALIGNMENT)
    count = tl.load(table + num_chunks + chunk).to(tl.int32)
    lane = tl.arange(0, BLOCK)
    large = tl.zeros((BLOCK,), WIDE)
    middle = tl.zeros((BLOCK,), WIDE)
    small = tl.zeros((BLOCK,), WIDE)
    peak = tl.zeros((BLOCK,), WIDE)
    zeros = tl.zeros((BLOCK,), tl.int32)
    whole = count // BLOCK * BLOCK  # blocks loaded without a mask are loaded in wide words
    for start in range(0, whole, BLOCK):
        size = tl.abs(tl.load(numbers + start + lane).to(WIDE))
        large, middle, small = _add(large, middle, small, size, HIGH, DOWN, LOW, UP)
        peak = tl.maximum(peak, size)
        zeros += (size == 0.0).to(tl.int32)
    inside = whole + lane < count
    size = tl.abs(tl.load(numbers + whole + lane, mask=inside, other=0.0).to(WIDE))
    large, middle, small = _add(large, middle, small, size, HIGH, DOWN, LOW, UP)
    peak = tl.maximum(peak, size)
    zeros += (inside & (size == 0.0)).to(tl.int32)
    tl.store(parts + chunk, tl.sum(large.to(tl.float64)))
    tl.store(parts + num_chunks + chunk, tl.sum(middle.to(tl.float64)))
    tl.store(parts + 2 * num_chunks + chunk, tl.sum(small.to(tl.float64)))
    tl.store(parts + 3 * num_chunks + chunk, tl.max(peak.to(tl.float64)))
    tl.store(parts + 4 * num_chunks + chunk, tl.sum(zeros).to(tl.float64))


@triton.jit
def _add(
    large, middle, small, size, HIGH: tl.constexpr, DOWN: tl.constexpr, LOW: tl.constexpr, UP: tl.constexpr
):  # fmt: skip
    is_large, is_small = size > HIGH, size < LOW
    down = tl.where(is_large, size * DOWN, 0.0)
    same = tl.where(is_large | is_small, 0.0, size)  # a nan is neither, and comes out here
    up = tl.where(is_small, size * UP, 0.0)
    return large + down * down, middle + same * same, small + up * up


@triton.jit(do_not_specialize=["num_chunks", "num_here", "num_tensors"])
def _tensors(
    table, parts, rows, num_chunks, num_here, num_tensors,
    DOWN: tl.constexpr, UP: tl.constexpr, LARGEST: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    tensor = tl.program_id(0)
    about = table + 2 * num_chunks + tensor
    first = tl.load(about).to(tl.int32)
    after = tl.load(about + num_here).to(tl.int32)
    numbers = tl.load(about + 2 * num_here).to(tl.float64)
    column = tl.load(about + 3 * num_here)
    lane = tl.arange(0, PARTS)
    large = tl.zeros((PARTS,), tl.float64)
    middle = tl.zeros((PARTS,), tl.float64)
    small = tl.zeros((PARTS,), tl.float64)
    peak = tl.zeros((PARTS,), tl.float64)
    zeros = tl.zeros((PARTS,), tl.float64)
    for start in range(first, after, PARTS):
        chunk = start + lane
        inside = chunk < after
        large += tl.load(parts + chunk, mask=inside, other=0.0)
        middle += tl.load(parts + num_chunks + chunk, mask=inside, other=0.0)
        small += tl.load(parts + 2 * num_chunks + chunk, mask=inside, other=0.0)
        peak = tl.maximum(peak, tl.load(parts + 3 * num_chunks + chunk, mask=inside, other=0.0))
        zeros += tl.load(parts + 4 * num_chunks + chunk, mask=inside, other=0.0)
    downs, sames, ups = tl.sum(large), tl.sum(middle), tl.sum(small)
    is_nan, is_inf = sames != sames, downs == float("inf")  # no sum of finite numbers is either
    # where there are large numbers the small ones are lost in rounding; DOWN * DOWN would itself underflow in float64
    norm = tl.where(
        downs > 0.0,
        tl.sqrt(downs + sames * DOWN * DOWN) / DOWN,
        tl.where(sames > 0.0, tl.sqrt(sames + ups / UP / UP), tl.sqrt(ups) / UP),
    )
    norm = tl.minimum(norm, LARGEST)  # two elements of 1.7e308: no float64 holds their norm
    norm = tl.where(is_nan, float("nan"), tl.where(is_inf, float("inf"), norm))
    tl.store(rows + column, norm)
    tl.store(rows + num_tensors + column, tl.where(is_nan, float("nan"), tl.max(peak)))
    tl.store(rows + 2 * num_tensors + column, tl.sum(zeros) / tl.maximum(numbers, 1.0))
    tl.store(rows + 3 * num_tensors + column, is_nan.to(tl.float64))
    tl.store(rows + 4 * num_tensors + column, is_inf.to(tl.float64))
