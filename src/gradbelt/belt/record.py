"""Measurement before, Measurement after, Action -> StepRecord: what the black box keeps."""

from __future__ import annotations

import numpy as np

from gradbelt._types import Action, ClipUnits, ClipUpdate, Measurement, ScaleEach, Skip, StepRecord

NAMES: dict[type, str] = {ScaleEach: "scale each", ClipUnits: "agc", ClipUpdate: "update"}
"""What an action is called in the black box, where that is not its class in lower case."""


def record(seen: Measurement, after: Measurement, action: Action, *, time: float) -> StepRecord:
    """The row of a step at which `seen` was measured and `action` left `after`; `time` in seconds since the run
    began."""
    skipped = isinstance(action, Skip)
    with np.errstate(over="ignore"):  # past 3.4e38 a norm is written as inf
        norm = seen.norm.astype(np.float32)
    return StepRecord(
        call=seen.call,
        step=seen.step,
        optimizer=seen.optimizer,
        time=time,
        lr=seen.lr,
        total=seen.total,
        total_after=0.0 if skipped else after.total,
        action=f"skip: {action.reason}"
        if isinstance(action, Skip)
        else NAMES.get(type(action), type(action).__name__.lower()),
        losses=seen.losses,
        names=seen.names,
        norm=norm,
        weight=seen.weight,
        peak=seen.peak,
        zeros=seen.zeros,
        bad=seen.bad,
        unclipped=seen.unclipped,
        activations=seen.activations,
        scale=seen.scale,
        moved=seen.moved,
        piled=seen.piled,
        exponents=seen.exponents,
        faint=seen.faint,
    )
