"""The Triton kernel for gradients on CUDA devices, where it is to be had; nobody is told where it isn't."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats

DEVICE = "cuda"  # of tensors that Triton reads

_without = False  # Triton is missing or can't compile here: found out at the first gradients, and not tried again


def by_triton(values: Sequence[Tensor]) -> Floats | None:
    """Norm, largest magnitude and share of zeros of each tensor of real, dense numbers, on the host; shape (3, P).

    From one read and with one wait. None where not all of them lie on CUDA devices, or Triton can't be used.
    """
    global _without
    # the usual case without CUDA costs this one question, not one for each tensor
    if _without or (DEVICE == "cuda" and not torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        return None
    if not values or any(value.device.type != DEVICE for value in values):
        return None
    together: dict[torch.device, list[int]] = {}
    for index, value in enumerate(values):
        together.setdefault(value.device, []).append(index)
    try:
        from gradbelt.kernels.foreach import fetch
        from gradbelt.kernels.triton import survey

        came = fetch([survey([values[i] for i in where]).rows[:3].reshape(-1) for where in together.values()])
    except Exception:  # whatever a missing or broken installation raises; torch's functions give the same norms
        _without = True
        return None
    rows = np.empty((3, len(values)))
    for where in together.values():
        rows[:, where], came = came[: 3 * len(where)].reshape(3, -1), came[3 * len(where) :]
    return rows
