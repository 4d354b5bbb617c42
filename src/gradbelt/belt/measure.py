"""Gradients -> Measurement: one read of each gradient, one wait for the device, one collective if any is sharded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradbelt import kernels
from gradbelt._types import Measurement
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
    norms handed on are without it. With `weights` the parameters are read as well.
    """
    gradients = gradients_of(parameters)
    norm, weight, total = kernels.survey(gradients, [parameter.detach() for parameter in parameters] if weights else ())
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
        # float32 as in the black box, so that a replay finds what was found while the run was going
        weight=weight.astype(np.float32) if weights else None,
        bad={names[i]: what for i, what in bad.items()},
        unclipped=unclipped,
    )
