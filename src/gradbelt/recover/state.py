"""All that training changes, copied and put back to the bit."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Stateful(Protocol):
    """A scheduler, a loss scaler, a sampler."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class State:
    """Parameters, buffers, optimizers, random numbers and whatever else has a `state_dict`, as they are now.

    Tensors are copied to the host. Gradients are not: they belong to a step that is going on.
    """

    def __init__(self, model: nn.Module, optimizers: Iterable[Optimizer], also: Sequence[Stateful] = ()) -> None:
        self._model, self._optimizers, self._also = model, list(optimizers), list(also)
        self.num_bytes = 0
        self._tensors = {name: self._kept(tensor) for name, tensor in _named(model)}
        self._states = [
            {parameter: self._kept(state) for parameter, state in optimizer.state.items()}
            for optimizer in self._optimizers
        ]
        self._groups = [
            [{name: self._kept(value) for name, value in group.items() if name != "params"} for group in each]
            for each in (optimizer.param_groups for optimizer in self._optimizers)
        ]
        self._others = [self._kept(other.state_dict()) for other in self._also]
        self._random = _drawn()

    @torch.no_grad()
    def put_back(self) -> None:
        """Everything is what it was; there are no gradients. May be done more than once."""
        now = dict(_named(self._model))
        for name, kept in self._tensors.items():
            now[name].copy_(kept())
        for optimizer, states, groups in zip(self._optimizers, self._states, self._groups, strict=True):
            optimizer.state.clear()
            # not by load_state_dict, which casts moments to the type of their parameter
            optimizer.state.update({parameter: kept() for parameter, kept in states.items()})
            for group, values in zip(optimizer.param_groups, groups, strict=True):
                group.update({name: kept() for name, kept in values.items()})
            optimizer.zero_grad(set_to_none=True)
        for other, kept in zip(self._also, self._others, strict=True):
            other.load_state_dict(kept())
        self._random()

    def _kept(self, value: Any) -> Callable[[], Any]:
        """What answers a fresh copy of the value as it is now."""
        if isinstance(value, Tensor):
            device, held = value.device, value.detach().to("cpu", copy=True)
            self.num_bytes += held.nbytes
            return lambda: held.to(device, copy=True)
        if type(value) in (list, tuple):
            items = [self._kept(item) for item in value]
            return lambda: type(value)(item() for item in items)
        if isinstance(value, dict):
            named = {name: self._kept(item) for name, item in value.items()}
            return lambda: {name: item() for name, item in named.items()}
        plain = copy.deepcopy(value)
        return lambda: copy.deepcopy(plain)


def _named(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers, those too that a state dict leaves out."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _drawn() -> Callable[[], None]:
    """What sets the random numbers of Python, NumPy and torch to where they are now."""
    numpy = sys.modules.get("numpy")
    python, host = random.getstate(), torch.get_rng_state()
    arrays = None if numpy is None else numpy.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def put_back() -> None:
        random.setstate(python)
        torch.set_rng_state(host)
        if numpy is not None:
            numpy.random.set_state(arrays)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)

    return put_back
