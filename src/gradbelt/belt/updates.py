"""ClipUpdate, carried out: for one step each parameter whose update would be too large has a lower learning rate.

A stock optimizer has one learning rate a group, so such a parameter gets a group of its own. The groups are a
stand-in's (see `fold`), which shares the optimizer's state; the optimizer, its groups and whatever a scheduler writes
into them are never touched, so nothing has to be put back, and nothing stays behind when the step raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, NAdam, Optimizer, RAdam, SparseAdam

from gradbelt.errors import UsageError
from gradbelt.kernels import Moment, rms_of_updates
from gradbelt.kernels.foreach import fetch

KNOWN = (Adam, AdamW, NAdam, RAdam, SparseAdam)
"""Optimizers that divide by the root of `exp_avg_sq`, corrected for its bias."""


def must_have_moments(optimizer: Optimizer | None) -> None:
    """UsageError unless the optimizer steps as one of KNOWN does, whose second moments `clip.Update` goes by."""
    if isinstance(optimizer, KNOWN) and type(optimizer).step.__module__.startswith("torch.optim."):
        return
    what = "a loop without an optimizer" if optimizer is None else type(optimizer).__name__
    raise UsageError(
        f"clip.Update holds each update against the optimizer's second moment, and {what} has none that it knows; "
        f"{', '.join(kind.__name__ for kind in KNOWN)} have. clip.Norm(1.0), clip.Auto() and clip.AdaGC() work with "
        "every optimizer."
    )


def slow(acting: Optimizer | None, parameters: Sequence[Tensor], limit: float, *, scale: float = 1.0) -> bool:
    """The learning rate of each parameter is divided by what the RMS of its update is above `limit`; False if none is.

    `acting` is a stand-in that is about to step: it gets groups of its own. `scale` is what the gradients are still
    multiplied by. Raises UsageError for an optimizer without second moments.
    """
    must_have_moments(acting)
    assert acting is not None
    home = {id(parameter): group for group in reversed(acting.param_groups) for parameter in group["params"]}
    states = [acting.state.get(parameter, {}) for parameter in parameters]
    moments = [
        _moment(acting, parameter, home[id(parameter)], state, step)
        for parameter, state, step in zip(parameters, states, _steps(states), strict=True)
    ]
    above = zip(parameters, (rms_of_updates(moments, scale) / limit).tolist(), strict=True)
    slower = {id(parameter): times for parameter, times in above if times > 1.0}
    if slower:
        acting.param_groups = [part for group in acting.param_groups for part in _parts(group, slower)]
    return bool(slower)


def _moment(
    optimizer: Optimizer, parameter: Tensor, group: Mapping[str, Any], state: Mapping[str, Any], step: float
) -> Moment:
    assert parameter.grad is not None
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, AdamW))  # no key in torch 2.4's
    decay = 0.0 if decoupled else float(group.get("weight_decay", 0.0))
    return Moment(
        gradient=parameter.grad,
        square=state.get("exp_avg_sq"),
        most=state.get("max_exp_avg_sq"),
        weight=parameter,
        decay=-decay if group.get("maximize") else decay,  # g is turned round first; its square can't tell
        beta2=float(group["betas"][1]),
        eps=float(group["eps"]),
        step=step,
    )


def _steps(states: Sequence[Mapping[str, Any]]) -> list[float]:
    """Which step each parameter is about to make, from 1. Counters that lie on a device are fetched with one wait."""
    steps = [state.get("step", 0) for state in states]
    away = [index for index, step in enumerate(steps) if isinstance(step, Tensor) and step.device.type != "cpu"]
    if away:
        for index, step in zip(away, fetch([torch.as_tensor(steps[i]).view(1) for i in away]).tolist(), strict=True):
            steps[index] = step
    return [float(step) + 1.0 for step in steps]


def _parts(group: dict[str, Any], slower: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    """A group without the parameters that are slowed, and one for each of these; the group itself if there is none."""
    slowed = [parameter for parameter in group["params"] if id(parameter) in slower]
    if not slowed:
        yield group
        return
    if len(slowed) < len(group["params"]):
        yield {**group, "params": [parameter for parameter in group["params"] if id(parameter) not in slower]}
    for parameter in slowed:
        yield {**group, "params": [parameter], "lr": group["lr"] / slower[id(parameter)]}
