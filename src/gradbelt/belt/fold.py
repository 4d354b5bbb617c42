"""Scaling inside a fused optimizer's own kernel, so that no pass over the gradients is spent on it.

Adam, AdamW, SGD and Adagrad with `fused=True` read two attributes of the optimizer, made for a GradScaler: they divide
each gradient by the tensor `grad_scale`, and do nothing where the tensor `found_inf` is not 0. The attributes are put
on a stand-in that shares the optimizer's groups and state and takes its place for one step. The optimizer itself is
never touched, so nothing stays behind: torch calls no post-hook after a step that raises, and a scale left over would
be multiplied into the next step's.

The kernel writes the gradients it has divided: after the step `p.grad` holds what was clipped, as without folding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt.belt.apply import gradients_of
from gradbelt.kernels.foreach import PLAIN

MOST = 1e30  # a grad_scale is float32; up to here there is room for a loss scale on top


def is_fused(optimizer: Optimizer) -> bool:
    """Whether every step of this optimizer is one of torch's fused kernels that read `grad_scale` and `found_inf`.

    The other implementations refuse to run when they are set, so one group that is not fused speaks for all.
    """
    return (
        type(optimizer).__module__.startswith("torch.optim.")
        and getattr(optimizer, "_step_supports_amp_scaling", False)
        and all(group.get("fused") for group in optimizer.param_groups)
    )


def stand_in(optimizer: Optimizer) -> Optimizer:
    """A second handle on the same groups and state, whose own attributes last as long as it does.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, fused=True)
    >>> other = stand_in(optimizer)
    >>> other.grad_scale = torch.tensor(2.0)
    >>> other.state is optimizer.state, hasattr(optimizer, "grad_scale")
    (True, False)
    """
    other = object.__new__(type(optimizer))
    other.__dict__.update(optimizer.__dict__)
    return other


def folded(optimizer: Optimizer, acting: Optimizer) -> bool:
    """Whether the stand-in is told to do anything that the optimizer would not have done."""
    told = ("grad_scale", "found_inf", "param_groups")
    return any(getattr(optimizer, name, None) is not getattr(acting, name, None) for name in told)


def fold(acting: Optimizer, parameters: Sequence[Tensor], coefficient: float) -> bool:
    """The kernel that `acting` is about to run multiplies by `coefficient`; False where it can't, and nothing is done.

    It can't for factors that leave float32's range, for sharded gradients, and for a parameter in two groups, whose
    gradient it would divide twice. A `grad_scale` that is there already, a GradScaler's, is kept as a factor.
    """
    gradients = gradients_of(parameters)
    if not coefficient * MOST >= 1.0 or not PLAIN.issuperset(map(type, gradients)):
        return False
    listed = [parameter for group in acting.param_groups for parameter in group["params"]]
    if sum(parameter.grad is not None for parameter in listed) != len(gradients):
        return False
    known = getattr(acting, "grad_scale", None)
    if known is None:
        # filled on the device: torch.tensor would copy it there
        known = torch.ones((), dtype=torch.float32, device=gradients[0].device)
    acting.grad_scale = known / coefficient  # type: ignore[attr-defined]
    return True
