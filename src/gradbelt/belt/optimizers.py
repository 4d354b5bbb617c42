"""What the belt asks of an optimizer: the parameters about to move, and a way back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer


def held_by(optimizer: Optimizer) -> list[Tensor]:
    """The parameters that this step would move: those with a gradient."""
    return with_gradient(parameter for group in optimizer.param_groups for parameter in group["params"])


def with_gradient(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor that has a gradient, once: one that two groups share must not count twice in the norm."""
    return list({id(parameter): parameter for parameter in parameters if parameter.grad is not None}.values())


def evaluates_often(optimizer: Optimizer) -> bool:
    """Whether one step may call its closure more than once, moving the weights in between."""
    return isinstance(optimizer, LBFGS) or not type(optimizer).__module__.startswith("torch.optim.")


def snapshot(optimizer: Optimizer) -> Callable[[], None]:
    """Keeps parameters and state; the answer puts them back, to the bit."""
    parameters = {id(p): p for group in optimizer.param_groups for p in group["params"]}.values()
    values = [(parameter, parameter.detach().clone()) for parameter in parameters]
    state = {parameter: copy.deepcopy(known) for parameter, known in optimizer.state.items()}

    def put_back() -> None:
        with torch.no_grad():
            for parameter, value in values:
                parameter.copy_(value)
        optimizer.state.clear()
        optimizer.state.update(state)

    return put_back
