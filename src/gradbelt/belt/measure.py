"""Gradients -> Measurement: one read of each gradient, one wait for the device, one collective if any is sharded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradbelt import kernels
from gradbelt._types import Activation, Floats, Measurement
from gradbelt.belt.apply import gradients_of
from gradbelt.belt.beside import Beside, mean
from gradbelt.belt.mass import Sample, sample
from gradbelt.belt.moved import Change

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read of a step's tensors, on the host. P gradients, in the order of their parameters."""

    norm: Floats  # (P,) L2 norm of each gradient, still multiplied by a loss scale
    total: float  # of them all, likewise
    weight: Floats | None = None  # (P,) of the parameters, where they were read
    peak: Floats | None = None  # (P,) largest magnitude of each gradient, likewise scaled, where it was looked for
    zeros: Floats | None = None  # (P,) its share of exact zeros
    moved: Floats | None = None  # (P,) how far the last update moved each matrix, over what it was; where it was taken
    some: Sample | None = None  # numbers of each gradient, likewise scaled, where they were taken
    bad: Mapping[int, str] = field(default_factory=dict)  # which are not finite -> "inf", or "nan" if there is no inf


def read(parameters: Sequence[Tensor], *, weights: bool = False, change: Change | None = None) -> Reading:
    """Reads what one backward pass left in the `.grad` of `parameters`, each of which has one. Waits for the device.

    With `weights` the parameters are read as well, and the gradients more closely; with `change` what the last update
    made of them.
    """
    gradients = gradients_of(parameters)
    also = [each.detach() for each in parameters] if weights else []
    num_weights = len(also)
    also += [] if change is None else change.tensors
    taken = sample(gradients) if weights else None  # before the norms, so that asking for it waits for nothing more
    seen = kernels.look(gradients, also, closely=weights)
    norm, total = seen.norm, seen.total
    moved = None if change is None else change.ratios(seen.weight[num_weights:], len(norm))
    bad = {} if math.isfinite(total) else kernels.what_is_bad(gradients, norm)
    if taken is None:  # peaks and zeros are kept of sampled steps only, though Triton gives them at every step
        return Reading(norm=norm, total=total, moved=moved, bad=bad)
    return Reading(
        norm=norm, total=total, weight=seen.weight[:num_weights], peak=seen.peak, zeros=seen.zeros, moved=moved,
        some=taken(), bad=bad,
    )  # fmt: skip


def measure(
    reading: Reading,
    beside: Beside,
    names: tuple[str, ...],
    *,
    call: int,
    step: int,
    optimizer: int,
    activations: tuple[Activation, ...] = (),
) -> Measurement:
    """What was read and what is known beside it, without the loss scale. All numbers of `beside` are floats by now."""
    scale, unclipped = float(beside.scale), None if beside.unclipped is None else float(beside.unclipped)
    multiplied = None if beside.multiplied is None else float(beside.multiplied)
    bad, some = reading.bad, reading.some
    if unclipped is not None and math.isinf(unclipped):
        bad = dict.fromkeys(bad, "inf")  # the script's own clip has divided by it since, which makes every element nan
    return Measurement(
        call=call,
        step=step,
        optimizer=optimizer,
        names=names,
        norm=reading.norm if scale == 1.0 else reading.norm / scale,
        total=reading.total / scale,
        losses={where: mean([float(loss) for loss in noted]) for where, noted in beside.losses.items()},
        lr=max(map(float, beside.lrs), default=math.nan),
        # what the black box keeps, so that a replay finds what was found while the run was going
        weight=_float32(reading.weight),
        peak=_float32(None if reading.peak is None else reading.peak / scale),
        zeros=_float32(reading.zeros),
        moved=_float32(reading.moved),
        piled=None if some is None else _float32(some.piled()),
        exponents=None if some is None else some.exponents(scale),
        faint=None if some is None else _float32(some.faint(1.0 if multiplied is None else multiplied / scale)),
        bad={names[i]: what for i, what in bad.items()},
        unclipped=unclipped,
        activations=activations,
        scale=multiplied,
    )


def _float32(values: Floats | None) -> Floats | None:
    if values is None:
        return None
    with np.errstate(over="ignore"):  # past 3.4e38 it is inf
        return values.astype(np.float32)
