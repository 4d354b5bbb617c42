"""The numbers that a step is recorded with beside its norms: losses, learning rate, what a loss scaler has set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradbelt.kernels import send, shards

Number: TypeAlias = float | Tensor
"""A number, or one that still lies on a device: reading it would wait for all that the device has to do before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Numbers that aren't norms, wherever they lie."""

    losses: Mapping[str, Sequence[Number]] = field(default_factory=dict)  # those of a name are averaged over the step
    lrs: Sequence[Number] = ()  # of each parameter group
    unclipped: Number | None = None  # what the script's own clip_grad_norm_ answered
    found_inf: Number = 0.0  # not 0: the optimizer will leave the step out by itself
    scale: Number = 1.0  # what the gradients are still multiplied by
    multiplied: Number | None = None  # what the loss was multiplied by; None where no loss scaler is known

    def sent(self) -> Callable[[], Beside]:
        """All on their way to the host at once; the answer has them as floats."""
        tensors = self.tensors
        if all(tensor.device.type == "cpu" for tensor in tensors):
            known = self.filled(map(float, tensors))
            return lambda: known
        arrived = send(tensors)
        return lambda: self.filled(arrived().tolist())

    @property
    def tensors(self) -> list[Tensor]:
        """Those that aren't floats yet, in the order in which `filled` takes them."""
        return [number for number in self._all() if isinstance(number, Tensor)]

    def filled(self, numbers: Iterable[float]) -> Beside:
        """With floats in place of the tensors."""
        come = iter(numbers)

        def known(number: Number) -> float:
            return next(come) if isinstance(number, Tensor) else number

        found_inf, scale = known(self.found_inf), known(self.scale)
        unclipped = None if self.unclipped is None else known(self.unclipped)
        multiplied = None if self.multiplied is None else known(self.multiplied)
        lrs = [known(lr) for lr in self.lrs]
        losses = {name: [known(loss) for loss in noted] for name, noted in self.losses.items()}
        return replace(
            self, losses=losses, lrs=lrs, unclipped=unclipped, found_inf=found_inf, scale=scale, multiplied=multiplied
        )

    def _all(self) -> Iterator[Number]:
        yield self.found_inf
        yield self.scale
        if self.unclipped is not None:
            yield self.unclipped
        if self.multiplied is not None:
            yield self.multiplied
        yield from self.lrs
        for noted in self.losses.values():
            yield from noted


def beside(
    optimizer: Optimizer | None,
    losses: Mapping[str, Sequence[Number]],
    unclipped: Number | None,
    scaler: GradScaler | None = None,
) -> Beside:
    """What is to be known of a step of `optimizer` beside its gradients; None for a loop that has none.

    A GradScaler sets `found_inf` and `grad_scale` on optimizers that do the unscaling themselves (`fused=True`); for
    all others it has unscaled before, and calls no `step` for one to be left out.
    """
    unclipped = None if unclipped is None else as_number(unclipped)
    # get_scale would wait for the device
    multiplied = None if scaler is None or not scaler.is_enabled() else scaler._get_scale_async()
    if optimizer is None:
        return Beside(losses=losses, unclipped=unclipped, multiplied=multiplied)
    found_inf, scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
    return Beside(
        losses=losses,
        lrs=[as_number(group["lr"]) for group in optimizer.param_groups if "lr" in group],
        unclipped=unclipped,
        found_inf=0.0 if found_inf is None else as_number(found_inf),
        scale=1.0 if scale is None else as_number(scale),
        multiplied=multiplied,
    )


def as_number(value: Number) -> Number:
    """A tensor as it is, anything else as a float: also a DTensor, which is whole only after a collective."""
    return value if isinstance(value, Tensor) and not shards.is_sharded(value) else float(value)


def mean(numbers: Sequence[float]) -> float:
    """Their mean; nan or inf where the script's own arithmetic would have it."""
    # fsum raises on inf - inf, where sum says nan
    return math.fsum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)
