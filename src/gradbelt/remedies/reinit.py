"""A published initialisation instead of the script's own: he_init, xavier_init, orthogonal_init."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradbelt.remedies.each_model import first, numbers, pretrained
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from gradbelt.supervise.patient import Patient

    Fill = Callable[[Tensor, Generator], object]


@dataclass(frozen=True, slots=True)
class HeInit:
    """Weights of linear and convolution layers drawn from N(0, 2 / fan_in), before the first forward.

    Keeps the variance of a ReLU net from layer to layer. Embeddings, norms, biases, recurrent weights and anything that
    came from a checkpoint stay as they are.
    """

    name: ClassVar[str] = "he_init"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "He et al. 2015, arXiv 1502.01852, equation 10"
    EDIT: ClassVar[str] = "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu') for every layer"

    def fit(self, patient: Patient) -> None:
        from torch.nn import init

        reinitialise(patient, lambda weight, g: init.kaiming_normal_(weight, nonlinearity="relu", generator=g))


@dataclass(frozen=True, slots=True)
class XavierInit:
    """Weights of linear, convolution and recurrent layers drawn from N(0, 2 / (fan_in + fan_out)).

    For tanh, sigmoid and linear nets. Leaves alone what he_init does.
    """

    name: ClassVar[str] = "xavier_init"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "Glorot and Bengio 2010, equation 16"
    EDIT: ClassVar[str] = "nn.init.xavier_normal_(layer.weight) for every layer"

    def fit(self, patient: Patient) -> None:
        from torch.nn import init

        reinitialise(patient, lambda weight, g: init.xavier_normal_(weight, generator=g), recurrent=True)


@dataclass(frozen=True, slots=True)
class OrthogonalInit:
    """Weights of linear, convolution and recurrent layers become orthogonal matrices (gain 1; one for each gate).

    Every singular value is one, so a product of many neither grows nor vanishes: for recurrent nets and deep linear or
    tanh nets. Leaves alone what he_init does.
    """

    name: ClassVar[str] = "orthogonal_init"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "Saxe, McClelland, Ganguli 2014, arXiv 1312.6120"
    EDIT: ClassVar[str] = "nn.init.orthogonal_(layer.weight) for every layer"

    def fit(self, patient: Patient) -> None:
        from torch.nn import init

        reinitialise(patient, lambda weight, g: init.orthogonal_(weight, generator=g), recurrent=True)


def reinitialise(patient: Patient, fill: Fill, *, recurrent: bool = False) -> None:
    """Has `fill` redraw the weights of each outermost module before its first forward.

    Random numbers come from a generator of our own, so the script draws the same batches as without the remedy.
    """
    import torch

    from gradbelt.supervise.rehearse import tied

    loaded = pretrained(patient)
    generator = numbers(patient)

    def at_model(root: nn.Module) -> None:
        shared = tied(root)
        with torch.no_grad():
            for module in root.modules():
                weights = _weights(module, recurrent=recurrent)
                if not weights or module in loaded or not first(module, "init"):
                    continue
                for weight, blocks in weights:
                    if id(weight) in shared:
                        continue
                    drawn = torch.empty(weight.shape, dtype=torch.float32)
                    for block in drawn.chunk(blocks):
                        fill(block, generator)
                    weight.copy_(drawn)

    patient.at_model.append(at_model)


def _weights(module: nn.Module, *, recurrent: bool) -> list[tuple[Tensor, int]]:
    """The matrices of one layer, with the number of gates stacked in each."""
    from torch import nn

    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.Bilinear):
        return [(module.weight, 1)]
    if recurrent and isinstance(module, nn.RNNBase | nn.RNNCellBase):
        size = module.hidden_size
        matrices = [parameter for name, parameter in module.named_parameters() if name.startswith("weight_")]
        return [(matrix, math.ceil(matrix.shape[0] / size)) for matrix in matrices]
    return []
