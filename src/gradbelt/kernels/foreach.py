"""The gradients' norms in one read, through torch's multi-tensor (`_foreach_*`) functions and batched reductions.

On CPU torch adds up a float32 norm in a few running sums, so a tensor of 1e7 equal numbers comes out 0.8 % wrong and
one of 1e8 4 % (torch 2.13, one thread; randn: 0.04 % and 1.1 %). A large tensor is therefore read as rows of `ROW`
numbers, each row summed in float32 and the rows in float64: as fast, for it is one read either way, and wrong by less
than 1e-5 whatever the size.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from gradbelt._types import Floats
from gradbelt.errors import UsageError
from gradbelt.kernels import gpu, shards

ROW = 8192  # numbers added up in float32 before float64 takes over, on CPU
LARGE = ROW  # below this a tensor is one row
SMALL = 1024  # below this a call costs more than the read, so all small tensors are laid end to end and read in one
CHUNK = 16 * ROW  # half-precision numbers widened at a time, on CPU: they stay in the cache
PIECE = 2**20  # numbers widened to float64 at a time in the second look

TINY = {torch.float32: 1e-10, torch.float64: 1e-140}
"""A norm below this may have lost squares to underflow, so it is looked at again."""

REAL = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
PLAIN = frozenset({Tensor, torch.nn.Parameter})


def read(tensors: Sequence[Tensor]) -> Floats:
    """L2 norm of each gradient. Shape (P,), float64, on the host.

    Reads each gradient once and waits for the device once, however many tensors, devices and dtypes there are. Only a
    norm that came out as 0, tiny, inf or nan is looked at again, scaled by its largest element, so a finite gradient
    never has an infinite norm and a non-zero one never a norm of 0. A gradient holding nan has the norm nan, else one
    holding inf has the norm inf.

    Takes float16, bfloat16, float32, float64 and their complex kin, dense or sparse (duplicate entries of a COO
    gradient are added first), DTensor (sharded or replicated; a collective and a second wait, so every rank must call:
    see `shards`), any mix of devices. Raises UsageError for other dtypes, and for DTensors placed as Partial.

    >>> read([torch.tensor([3.0, 4.0]), torch.tensor([3 + 4j]), torch.zeros(0), torch.full((4,), 1e-25)]).tolist()
    [5.0, 5.0, 0.0, 2.0000000390829628e-25]
    """
    return everywhere(tensors, 0)[0]


def survey(gradients: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> tuple[Floats, Floats, float]:
    """L2 norms of the gradients (P,), of the weights, and over all gradients, as `read` and `total` find them at once.

    Where some are sharded the last is the same on every rank, to the bit, and nan or inf if it is on any of them; it
    takes one collective for all. `total` of the norms can only be so if all that isn't sharded is the same everywhere.

    >>> survey([torch.tensor([3.0]), torch.tensor([4.0])], [torch.ones(4)])
    (array([3., 4.]), array([2.]), 5.0)
    """
    norms, counted, _ = everywhere([*gradients, *weights], len(gradients))
    return norms[: len(gradients)], norms[len(gradients) :], total(counted)


def everywhere(tensors: Sequence[Tensor], num_counted: int) -> tuple[Floats, Floats, Floats | None]:
    """Norms of the whole tensors; norms that the first `num_counted` add up to; and what else was seen of them.

    The last is peaks and shares of zeros, (2, P), where a kernel gives them with the norms and no tensor is sharded.
    """
    with torch.no_grad():
        values = all_numbers(tensors)
        rows = gpu.by_triton(values)
        norms = _first_look(values) if rows is None else rows[0]
        if not PLAIN.issuperset(map(type, tensors)) and any(map(shards.is_sharded, tensors)):
            return *shards.over_ranks(tensors, norms, num_counted), None
    return norms, norms[:num_counted], None if rows is None else rows[1:]


def total(norms: Floats) -> float:
    """L2 norm over all gradients, from their norms; finite norms never make it inf.

    The same to the last bit in whatever order the norms come. nan if any norm is nan, else inf if any is inf.

    >>> total(np.array([3.0, 4.0]) * 2.0**600) == 5.0 * 2.0**600
    True
    >>> total(np.zeros(0))
    0.0
    """
    if len(norms) == 0:
        return 0.0
    largest = float(np.max(norms))  # hands a NaN on, unlike max()
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    # a power of two divides without rounding, and fsum rounds once, so the order of the norms can't show
    scale = power_of_two(largest)
    return min(scale * math.sqrt(math.fsum(np.square(norms / scale).tolist())), sys.float_info.max)


def what_is_bad(tensors: Sequence[Tensor], norms: Floats) -> dict[int, str]:
    """Index of each gradient that isn't finite -> "inf" if any element is inf, else "nan".

    inf comes first because it is the producer: inf - inf and inf * 0 are what nan is made of. Looks only at gradients
    whose norm (from `read`) is not finite, so a healthy step costs nothing. For those of them that are sharded it makes
    a collective, and the answer is the same on every rank.

    >>> gradients = [torch.ones(2), torch.tensor([float("nan"), float("inf")]), torch.tensor(float("nan"))]
    >>> what_is_bad(gradients, read(gradients))
    {1: 'inf', 2: 'nan'}
    """
    where = np.flatnonzero(~np.isfinite(norms)).tolist()
    if not where:
        return {}
    bad = [tensors[index] for index in where]
    with torch.no_grad():
        flags = fetch([torch.isinf(numbers(tensor)).any().float().view(1) for tensor in bad])
        if any(map(shards.is_sharded, bad)):
            flags, _ = shards.over_ranks(bad, flags, 0)
    return {index: "inf" if flag else "nan" for index, flag in zip(where, flags, strict=True)}


def scale_(tensors: Sequence[Tensor], coefficient: float) -> None:
    """Multiply every gradient by `coefficient`, in place, without waiting for the device.

    1.0 writes nothing. Raises UsageError for a negative, infinite or nan coefficient: those would reverse or poison
    the gradients, not scale them.

    >>> gradient = torch.tensor([3.0, 4.0])
    >>> scale_([gradient], 0.5)
    >>> gradient
    tensor([1.5000, 2.0000])
    """
    if not 0.0 <= coefficient < math.inf:
        raise UsageError(f"gradients can't be scaled by {coefficient}: a coefficient is a finite number, 0 or above.")
    if coefficient == 1.0:
        return
    # float32 holds a factor below 1e-38 only roughly or not at all; two factors of its root are exact enough
    factors = [coefficient] if coefficient > 1e-30 else [math.sqrt(coefficient)] * 2
    with torch.no_grad():
        values = all_numbers(tensors, summed=False)
        for (device, dtype), where in alike(values).items():
            same = [values[index] for index in where]
            for factor in factors:
                if device.type == "cpu" and dtype is torch.float32:
                    # a Python number is wrapped anew for every tensor, which costs more than scaling a small one
                    torch._foreach_mul_(same, torch.tensor(factor, dtype=dtype))
                elif device.type == "cpu":
                    _multiply_each(same, [factor] * len(same))
                else:
                    torch._foreach_mul_(same, factor)


def scale_each_(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> None:
    """Multiply each gradient by its own coefficient, in place, without waiting for the device.

    A gradient whose coefficient is 1.0 is not written. Raises UsageError for a negative, infinite or nan coefficient,
    before anything is changed.

    >>> gradients = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    >>> scale_each_(gradients, [0.5, 1.0])
    >>> gradients
    [tensor([1.5000, 2.0000]), tensor([1.])]
    """
    if wrong := [factor for factor in coefficients if not 0.0 <= factor < math.inf]:
        raise UsageError(f"gradients can't be scaled by {wrong[0]}: a coefficient is a finite number, 0 or above.")
    work = [(t, factor) for t, factor in zip(tensors, coefficients, strict=True) if factor != 1.0]
    for tensor, factor in [pair for pair in work if pair[1] <= 1e-30]:  # see scale_
        scale_([tensor], factor)
    work = [pair for pair in work if pair[1] > 1e-30]
    with torch.no_grad():
        values = all_numbers([tensor for tensor, _ in work], summed=False)
        for where in alike(values).values() if values else ():
            _multiply_each([values[index] for index in where], [work[index][1] for index in where])


def _multiply_each(values: Sequence[Tensor], factors: Sequence[float]) -> None:
    """Multiplies tensors of one device and dtype, in place."""
    if values[0].device.type == "cpu" and values[0].dtype.itemsize == 2:
        # foreach would round the factors to half precision there, which has none below 6e-8
        for value, factor in zip(values, factors, strict=True):
            value.mul_(factor)
    else:
        torch._foreach_mul_(list(values), list(factors))


def clamp_(tensors: Sequence[Tensor], limit: float) -> None:
    """Clamp every element of every gradient into [-limit, limit], in place; nan stays nan.

    An uncoalesced sparse gradient is coalesced first, because its entries count only as sums. Raises UsageError for a
    limit that is negative or nan, and for complex gradients, which have no order: `clip.Norm` works for those.

    >>> gradient = torch.tensor([3.0, -0.2])
    >>> clamp_([gradient], 0.5)
    >>> gradient
    tensor([ 0.5000, -0.2000])
    """
    if not limit >= 0.0:
        raise UsageError(f"gradients can't be clamped to {limit}: a limit is a number, 0 or above.")
    for index, tensor in enumerate(tensors):
        if tensor.is_complex():
            raise UsageError(
                f"gradient {index} of {len(tensors)} is {tensor.dtype}, and complex numbers have no order to clamp by. "
                "Clip by norm instead: clip.Norm(max_norm) handles complex gradients."
            )
    with torch.no_grad():
        values = []
        for tensor in tensors:
            if tensor.layout is torch.sparse_coo and not tensor.is_coalesced():
                tensor.copy_(tensor.coalesce())
            values.append(numbers(tensor, summed=False))
        for (device, _), where in alike(values).items():
            if device.type == "cpu":  # foreach clamps in two passes, and is a loop here anyway
                for index in where:
                    values[index].clamp_(-limit, limit)
            else:
                same = [values[index] for index in where]
                torch._foreach_clamp_min_(same, -limit)
                torch._foreach_clamp_max_(same, limit)


def all_numbers(tensors: Sequence[Tensor], *, summed: bool = True) -> Sequence[Tensor]:
    """`numbers` of every tensor; the tensors themselves where all are plain: nearly always, and quickly seen."""
    if (
        PLAIN.issuperset(map(type, tensors))
        and REAL.issuperset([tensor.dtype for tensor in tensors])
        and {tensor.layout for tensor in tensors} <= {torch.strided}
    ):
        return tensors
    return [numbers(tensor, summed=summed) for tensor in tensors]


def numbers(tensor: Tensor, *, summed: bool = True) -> Tensor:
    """The real, dense numbers of a gradient, sharing its memory; `summed` adds up duplicate sparse entries first."""
    if type(tensor) in PLAIN and tensor.dtype in REAL and tensor.layout is torch.strided:
        return tensor
    if shards.is_sharded(tensor):
        return numbers(shards.local(tensor), summed=summed)
    if tensor.layout is torch.sparse_coo:
        return numbers((tensor.coalesce() if summed else tensor)._values(), summed=summed)
    if tensor.layout is not torch.strided:
        # detach: without it torch 2.13 takes the values of a complex CSR tensor for one that is sparse itself
        return numbers(tensor.values().detach(), summed=summed)
    if tensor.is_complex():
        # a conjugate view hides its memory behind a flag; conj() shows it, and neither norm nor scale can tell
        return torch.view_as_real(tensor.conj() if tensor.is_conj() else tensor)
    if tensor.dtype not in REAL:
        raise UsageError(
            f"a gradient of dtype {tensor.dtype} has no norm here; float16, bfloat16, float32, float64 and complex do. "
            "Give the parameter one of those, or pass gradient.float()."
        )
    return tensor


def alike(values: Sequence[Tensor]) -> Mapping[tuple[torch.device, torch.dtype], Sequence[int]]:
    """Positions of the tensors of each device and dtype."""
    if len(devices := {value.device for value in values}) == 1 == len(dtypes := {value.dtype for value in values}):
        return {(devices.pop(), dtypes.pop()): range(len(values))}
    found: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, value in enumerate(values):
        found.setdefault((value.device, value.dtype), []).append(index)
    return found


def _first_look(values: Sequence[Tensor]) -> Floats:
    """Norms in the gradients' own range, with a second look at whatever may have left it."""
    norms = np.zeros(len(values))
    tiny = np.zeros(len(values))
    pending: list[tuple[Sequence[int], Tensor]] = []
    for (device, dtype), where in alike(values).items():
        same = [values[index] for index in where]
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        here = slice(None) if len(where) == len(values) else where
        tiny[here] = TINY[wide]
        if device.type == "cpu":
            norms[here] = on_cpu(same, wide)
        else:
            pending.append((where, torch.stack(norm_each(same, wide))))
    if pending:
        fetched = fetch([piece for _, piece in pending])  # the one wait
        for where, piece in pending:
            norms[where], fetched = fetched[: len(piece)], fetched[len(piece) :]
    safe = (norms >= tiny) & (norms < np.inf)  # a NaN is neither
    if not safe.all():
        doubtful = np.flatnonzero(~safe).tolist()
        norms[doubtful] = _second_look([values[index] for index in doubtful])
    return norms


def norm_each(values: list[Tensor], wide: torch.dtype) -> list[Tensor]:
    """L2 norm of each tensor of one device and dtype, added up in `wide`, still on the device."""
    if values[0].dtype is wide:
        return list(torch._foreach_norm(values, 2.0))
    if values[0].device.type == "cpu":
        return [torch.linalg.vector_norm(value.to(wide)) for value in values]  # widening first is faster than dtype=
    return list(torch._foreach_norm(values, 2.0, dtype=wide))


def on_cpu(values: list[Tensor], wide: torch.dtype) -> Floats:
    """L2 norm of each CPU tensor of one dtype, large ones row by row."""
    if wide is torch.float64:
        return torch.stack(norm_each(values, wide)).numpy()
    norms = np.zeros(len(values))
    sizes = np.array([value.numel() for value in values])
    small = np.flatnonzero((sizes > 0) & (sizes < SMALL)).tolist()  # an empty tensor has no place in reduceat
    middle = np.flatnonzero((sizes >= SMALL) & (sizes < LARGE)).tolist()
    large = np.flatnonzero(sizes >= LARGE).tolist()
    if small:
        flat: Floats = _flatten_dense_tensors([values[index] for index in small]).to(wide).numpy()  # type: ignore[no-untyped-call]
        if len(small) == 1:  # then it is a view of the gradient
            flat = flat.copy()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # the second look's business
            np.square(flat, out=flat)
            norms[small] = np.sqrt(np.add.reduceat(flat, np.cumsum(sizes[small]) - sizes[small]))
    if middle:
        norms[middle] = torch.stack(norm_each([values[index] for index in middle], wide)).numpy()
    if large:
        rows: list[Tensor] = []
        starts, num_rows = [], 0
        for index in large:
            mine = _rows(values[index])
            rows += mine
            starts.append(num_rows)
            num_rows += sum(len(row) for row in mine)
        squares = np.square(torch.cat(rows).numpy().astype(np.float64))
        norms[large] = np.sqrt(np.add.reduceat(squares, starts))
    return norms


def _rows(value: Tensor) -> list[Tensor]:
    """Float32 norms of the rows of `ROW` numbers that a large tensor is made of, and of the rest."""
    flat = flattened(value)
    if flat.dtype is torch.float32 and flat.numel() % ROW == 0:
        return [torch.linalg.vector_norm(flat.view(-1, ROW), dim=1)]
    flat = flat.reshape(-1)
    if flat.dtype is torch.float32:
        return _rows_of(flat)
    chunks = range(0, flat.numel(), CHUNK)
    return [row for start in chunks for row in _rows_of(flat[start : start + CHUNK].float())]


def _rows_of(flat: Tensor) -> list[Tensor]:
    rest = flat.numel() % ROW
    if not rest:
        return [torch.linalg.vector_norm(flat.view(-1, ROW), dim=1)]
    return [*(_rows_of(flat[:-rest]) if rest < flat.numel() else []), torch.linalg.vector_norm(flat[-rest:]).view(1)]


def flattened(value: Tensor) -> Tensor:
    """All numbers in the order they lie in memory; a copy only where they lie with gaps or overlap.

    A contiguous tensor is handed back as it is, in its own shape.
    """
    if value.is_contiguous():
        return value
    # channels_last, a transpose: in the order of their strides they are contiguous
    return value.permute(sorted(range(value.dim()), key=value.stride, reverse=True)).reshape(-1)


def _second_look(values: Sequence[Tensor]) -> Floats:
    """Norms by way of the largest element: slower, never wrong by more than rounding. At most two waits."""
    norms = fetch([largest_of(value).view(1) for value in values])
    where = np.flatnonzero((norms > 0.0) & (norms < np.inf)).tolist()
    if where:
        scales = [power_of_two(largest) for largest in norms[where].tolist()]
        relative = fetch([_relative(values[index], by).view(1) for index, by in zip(where, scales, strict=True)])
        with np.errstate(over="ignore"):  # two elements of 1.7e308: no float64 holds their norm, the largest comes next
            norms[where] = np.minimum(np.array(scales) * relative, sys.float_info.max)
    return norms


def power_of_two(number: float) -> float:
    """The power of two in (number / 2, number]."""
    return math.ldexp(0.5, math.frexp(number)[1])


def largest_of(value: Tensor) -> Tensor:
    """Largest magnitude, 0-dim; nan if any element is nan, 0 for an empty tensor."""
    if value.numel() == 0:
        return value.new_zeros(())
    low, high = torch.aminmax(value)
    largest: Tensor = torch.maximum(-low, high)
    return largest


def _relative(value: Tensor, scale: float) -> Tensor:
    """Norm of value / scale, 0-dim; in float64 where the device has it."""
    wide = torch.float32 if value.device.type == "mps" else torch.float64
    flat = flattened(value).view(-1)
    pieces = [flat[start : start + PIECE].to(wide) / scale for start in range(0, flat.numel(), PIECE)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(piece) for piece in pieces]))
    return norm


def fetch(pieces: Sequence[Tensor]) -> Floats:
    """1-D tensors, in order, as one float64 host array; one wait, wherever they lie."""
    away = [piece for piece in pieces if piece.device.type != "cpu"]
    if away:
        home = away[0].device
        came = torch.cat([piece.to(home) for piece in away]).cpu()
        lengths = [len(piece) for piece in away]
        arrived = iter([came[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)])
        pieces = [piece if piece.device.type == "cpu" else next(arrived) for piece in pieces]
    return np.concatenate([piece.double().numpy() for piece in pieces])
