"""Faults put into a healthy training: into its data, its rate, its weights, its gradients, its loss, its optimizer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradbelt.lab.calibrate.fault import ATTENTION, MOMENTS, NUMBERS, Fault


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Evenly over the logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _flip(values: Tensor, rng: np.random.Generator, bits: range) -> None:
    """One bit of one element is the other way round, chosen among the elements that are not 0."""
    flat = values.view(-1).view(torch.int32)
    places = torch.nonzero(flat)[:, 0]
    at = int(places[int(rng.integers(len(places)))])
    bit = next((b for b in reversed(bits) if not int(flat[at]) >> b & 1), bits[-1])  # up, not down
    flat[at] = int(flat[at]) ^ (1 << bit)


# ------------------------------------------------------------------------------------------------------------- the data


class OutlierBatch(Fault):
    """One batch of inputs is 30 to 3000 times too large."""

    shape, hosts, kinds = "spike", NUMBERS, ("loss_spike",)

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (batch[0] * _between(self.rng, 30, 3000), *batch[1:]) if step == self.at else batch


class OutlierRow(Fault):
    """One row of one batch is 300 to 30 000 times too large."""

    shape, hosts, kinds = "spike", NUMBERS, ("loss_spike",)

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if step != self.at:
            return batch
        factor = torch.ones(len(batch[0]), 1)
        factor[int(self.rng.integers(len(factor)))] = _between(self.rng, 300, 30_000)
        return (batch[0] * factor, *batch[1:])


class NanInput(Fault):
    """One number of one batch is missing, and says so as nan."""

    shape, hosts = "nonfinite", NUMBERS
    number = float("nan")

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if step != self.at:
            return batch
        x = batch[0].clone()
        x.view(-1)[int(self.rng.integers(x.numel()))] = self.number
        return (x, *batch[1:])


class InfInput(NanInput):
    """One number of one batch is inf."""

    number = float("inf")


class Unscaled(Fault):
    """From here on the loader hands out images of 0 to 255, where it used to hand out about -1 to 1."""

    shape = "static"
    hosts = ("mlp_momentum", "autoencoder", "raw_targets")  # batch norm undoes it

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (batch[0] * 96 + 78, *batch[1:]) if step >= self.at else batch


# ------------------------------------------------------------------------------------------------------------- the rate


class RateJump(Fault):
    """The learning rate is 100 to 1000 times higher from here on: a decimal point in a schedule."""

    shape = "ramp"

    def after(self, step: int, optimizer: Optimizer) -> None:
        if step == self.at - 1:
            factor = _between(self.rng, 100, 1000)
            for group in optimizer.param_groups:
                group["lr"] *= factor


class RateRamp(Fault):
    """The learning rate grows by 3 to 8 % a step and does not stop: a warm-up without an end."""

    shape = "ramp"

    def __init__(self, at: int, rng: np.random.Generator) -> None:
        super().__init__(at, rng)
        self.factor = 1 + _between(rng, 0.03, 0.08)

    def after(self, step: int, optimizer: Optimizer) -> None:
        if step >= self.at - 1:
            for group in optimizer.param_groups:
                group["lr"] *= self.factor


# ---------------------------------------------------------------------------------------------------------- the weights


class RisingWeights(Fault):
    """Every matrix grows by 1 to 4 % a step: a decay with its sign wrong, an average gone astray."""

    shape = "ramp"

    def __init__(self, at: int, rng: np.random.Generator) -> None:
        super().__init__(at, rng)
        self.factor = 1 + _between(rng, 0.01, 0.04)

    def after(self, step: int, optimizer: Optimizer) -> None:
        if step >= self.at:
            with torch.no_grad():
                for parameter in _parameters(optimizer):
                    if parameter.dim() > 1:
                        parameter.mul_(self.factor)


class LogitGrowth(Fault):
    """Queries and keys grow by 2 to 6 % a step, so the logits of attention grow by twice that."""

    shape, hosts, kinds = "ramp", ATTENTION, ("logit_growth",)

    def __init__(self, at: int, rng: np.random.Generator) -> None:
        super().__init__(at, rng)
        self.factor = 1 + _between(rng, 0.02, 0.06)
        self._qkv: list[nn.Parameter] = []

    def enter(self, model: nn.Module) -> None:
        self._qkv = [parameter for name, parameter in model.named_parameters() if name.endswith("qkv.weight")]

    def after(self, step: int, optimizer: Optimizer) -> None:
        if step >= self.at:
            with torch.no_grad():
                for parameter in self._qkv:
                    parameter[: 2 * len(parameter) // 3].mul_(self.factor)


class WeightBitFlip(Fault):
    """One bit high up in the exponent of one weight is the other way round: a fault of the memory."""

    shape = "spike"

    def after(self, step: int, optimizer: Optimizer) -> None:
        if step == self.at - 1:
            matrices = [p for p in _parameters(optimizer) if p.dim() > 1]
            with torch.no_grad():
                _flip(matrices[int(self.rng.integers(len(matrices)))], self.rng, range(28, 31))


# -------------------------------------------------------------------------------------------------------- the gradients


class GradientBitFlip(Fault):
    """One bit high up in the exponent of one gradient is the other way round: a fault of the arithmetic."""

    shape = "spike"

    def gradients(self, step: int, optimizer: Optimizer) -> None:
        if step == self.at:
            held = [p.grad for p in _parameters(optimizer) if p.grad is not None and bool(p.grad.any())]
            _flip(held[int(self.rng.integers(len(held)))], self.rng, range(28, 31))


class NanGradient(Fault):
    """One element of one gradient is nan, and the loss is not."""

    shape = "nonfinite"

    def gradients(self, step: int, optimizer: Optimizer) -> None:
        if step == self.at:
            held = [p.grad for p in _parameters(optimizer) if p.grad is not None]
            grad = held[int(self.rng.integers(len(held)))]
            grad.view(-1)[int(self.rng.integers(grad.numel()))] = float("nan")


class NeverZeroed(Fault):
    """From here on gradients add up: the call of `zero_grad` is gone."""

    shape = "ramp"

    def __init__(self, at: int, rng: np.random.Generator) -> None:
        super().__init__(at, rng)
        self._sums: dict[int, Tensor] = {}

    def gradients(self, step: int, optimizer: Optimizer) -> None:
        if step >= self.at:
            for parameter in _parameters(optimizer):
                if parameter.grad is not None:
                    if id(parameter) in self._sums:
                        parameter.grad.add_(self._sums[id(parameter)])
                    self._sums[id(parameter)] = parameter.grad.clone()


# ------------------------------------------------------------------------------------------ the loss, and the optimizer


class LogOfZero(Fault):
    """A term of the loss takes the logarithm of a probability that is 0."""

    shape = "nonfinite"

    def loss(self, step: int, loss: Tensor) -> Tensor:
        return loss - torch.log(loss.detach() * 0) * 1e-3 if step == self.at else loss


class SqrtOfZero(Fault):
    """A term of the loss takes the root of a distance that is 0: the loss stays finite, its gradient does not."""

    shape = "nonfinite"

    def loss(self, step: int, loss: Tensor) -> Tensor:
        return loss + 1e-3 * torch.sqrt((loss - loss).square()) if step == self.at else loss


class LossScale(Fault):
    """The loss is multiplied by a scale that doubles at every step and is never divided out again."""

    shape = "ramp"

    def loss(self, step: int, loss: Tensor) -> Tensor:
        return loss * 2.0 ** min(step - self.at + 1, 127) if step >= self.at else loss


class ZeroedMoments(Fault):
    """Adam's second moments are lost, and nobody tells it to correct for that: a checkpoint half restored."""

    shape, hosts = "spike", MOMENTS

    def after(self, step: int, optimizer: Optimizer) -> None:
        if step == self.at - 1:
            for state in optimizer.state.values():
                state["exp_avg_sq"].zero_()


INJECTED: tuple[type[Fault], ...] = (
    OutlierBatch, OutlierRow, NanInput, InfInput, Unscaled, RateJump, RateRamp, RisingWeights, LogitGrowth,
    WeightBitFlip, GradientBitFlip, NanGradient, NeverZeroed, LogOfZero, SqrtOfZero, LossScale, ZeroedMoments,
)  # fmt: skip
