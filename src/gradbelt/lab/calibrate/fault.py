"""What a fault is: where it may get into a training, and what is known of it beforehand."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

Shape: TypeAlias = Literal["ramp", "spike", "static", "nonfinite"]
"""How a fault shows over time: growing, at one step, the same from its start on, or at once as nan or inf."""


HOSTS = ("mlp_momentum", "resnet_adam", "autoencoder", "raw_targets", "char_lstm_adam", "gpt_bare")
"""Healthy trainings that faults are put into."""

NUMBERS = ("mlp_momentum", "resnet_adam", "autoencoder", "raw_targets")  # of these, whose inputs are numbers
MOMENTS = ("resnet_adam", "raw_targets", "char_lstm_adam", "gpt_bare")  # whose optimizer is Adam
ATTENTION = ("gpt_bare",)  # whose model attends


class Fault:
    """Comes in at step `at`. One that draws anything draws it from `rng`, so that its twin stays in step."""

    shape: ClassVar[Shape]
    hosts: ClassVar[tuple[str, ...]] = HOSTS  # healthy trainings it can be put into
    kinds: ClassVar[tuple[str, ...]] = ()  # symptoms that name it, where no warning is due

    def __init__(self, at: int, rng: np.random.Generator) -> None:
        self.at, self.rng = at, rng

    def enter(self, model: nn.Module) -> None:
        """Called once, before the first step."""

    def batch(self, step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The batch that the training gets at this step."""
        return batch

    def loss(self, step: int, loss: Tensor) -> Tensor:
        """The loss that `backward` is called on."""
        return loss

    def gradients(self, step: int, optimizer: Optimizer) -> None:
        """Called before the optimizer steps."""

    def after(self, step: int, optimizer: Optimizer) -> None:
        """Called after the optimizer has stepped."""
