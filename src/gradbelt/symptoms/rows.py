"""Steps written short: what the CALM and SICK of a hindsight are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradbelt._types import StepRecord


def recorded(step: int, loss: float, *norms: float, **known: Any) -> StepRecord:
    """The row of a step with this loss and these gradient norms, a parameter each; `known` says what else it holds.

    >>> recorded(3, 0.7, 3.0, 4.0, unclipped=50.0).total
    5.0
    """
    total = float(np.linalg.norm(norms))
    fields: dict[str, Any] = {
        "call": step, "step": step, "optimizer": 0, "time": float(step), "lr": 0.1, "total": total,
        "total_after": total, "action": "keep", "losses": {"train.py:1": loss},
        "names": tuple(f"layers.{i}.weight" for i in range(len(norms))), "norm": np.array(norms, np.float32),
        "weight": None,
    }  # fmt: skip
    return StepRecord(**{**fields, **known})
