"""Gradients -> Measurement: one read of each gradient, one wait for the device, one collective if any is sharded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradbelt import kernels
from gradbelt._types import Floats, Measurement
from gradbelt.belt.apply import gradients_of

if TYPE_CHECKING:
    from torch import Tensor


def measure(
    parameters: Sequence[Tensor],
    names: tuple[str, ...],
    *,
    call: int,
    step: int,
    optimizer: int,
    losses: Mapping[str, float],
    lr: float = math.nan,
    scale: float = 1.0,
    weights: bool = False,
    unclipped: float | None = None,
) -> Measurement:
    """What one backward pass left in the `.grad` of `parameters`, each of which has one.

    `scale` is what the gradients are still multiplied by (a fused optimizer under a GradScaler sees them scaled); the
    norms and peaks handed on are without it. With `weights` the parameters are read as well, and the gradients more
    closely.
    """
    gradients = gradients_of(parameters)
    seen = kernels.look(gradients, [each.detach() for each in parameters] if weights else (), closely=weights)
    norm, total = seen.norm, seen.total
    bad = {} if math.isfinite(total) else kernels.what_is_bad(gradients, norm)
    if unclipped is not None and math.isinf(unclipped):
        bad = dict.fromkeys(bad, "inf")  # the script's own clip has divided by it since, which makes every element nan
    return Measurement(
        call=call,
        step=step,
        optimizer=optimizer,
        names=names,
        norm=norm if scale == 1.0 else norm / scale,
        total=total / scale,
        losses=losses,
        lr=lr,
        # what the black box keeps, and no more, so that a replay finds what was found while the run was going: float32,
        # and peaks and zeros of sampled steps only, though Triton gives them at every step
        weight=_float32(seen.weight) if weights else None,
        peak=_float32(seen.peak / scale) if weights and seen.peak is not None else None,
        zeros=_float32(seen.zeros) if weights and seen.zeros is not None else None,
        bad={names[i]: what for i, what in bad.items()},
        unclipped=unclipped,
    )


def _float32(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # past 3.4e38 it is inf
        return values.astype(np.float32)
