"""A published initialisation instead of the script's own: he_init, xavier_init, orthogonal_init."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import first, numbers, pretrained
from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, learns

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from gradbelt.supervise.deeds import Deeds
    from gradbelt.supervise.patient import Patient

    Fill = Callable[[Tensor, Generator], object]

BY_HAND = "a matrix that is no layer's drawn anew"


@dataclass(frozen=True, slots=True)
class HeInit:
    """Weights of linear and convolution layers drawn from N(0, 2 / fan_in), before the first forward; so are matrices
    that belong to no layer, when numbers first meet them.

    Keeps the variance of a ReLU net from layer to layer. Embeddings, norms, biases, the weights of recurrent layers and
    anything that came from a checkpoint stay as they are.
    """

    name: ClassVar[str] = "he_init"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "He et al. 2015, arXiv 1502.01852, equation 10"
    EDIT: ClassVar[str] = "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu') for every layer"

    def fit(self, patient: Patient) -> None:
        from torch.nn import init

        def fill(weight: Tensor, generator: Generator) -> None:
            init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)

        reinitialise(patient, self.name, fill)


@dataclass(frozen=True, slots=True)
class XavierInit:
    """Weights of linear, convolution and recurrent layers, and matrices that belong to no layer, drawn from
    N(0, 2 / (fan_in + fan_out)).

    For tanh, sigmoid and linear nets. Leaves alone what he_init does.
    """

    name: ClassVar[str] = "xavier_init"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "Glorot and Bengio 2010, equation 16"
    EDIT: ClassVar[str] = "nn.init.xavier_normal_(layer.weight) for every layer"

    def fit(self, patient: Patient) -> None:
        from torch.nn import init

        reinitialise(patient, self.name, lambda weight, g: init.xavier_normal_(weight, generator=g), recurrent=True)


@dataclass(frozen=True, slots=True)
class OrthogonalInit:
    """Weights of linear, convolution and recurrent layers, and matrices that belong to no layer, become orthogonal
    (gain 1; one for each gate).

    Every singular value is one, so a product of many neither grows nor vanishes: for recurrent nets and deep linear or
    tanh nets. Leaves alone what he_init does.
    """

    name: ClassVar[str] = "orthogonal_init"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "Saxe, McClelland, Ganguli 2014, arXiv 1312.6120"
    EDIT: ClassVar[str] = "nn.init.orthogonal_(layer.weight) for every layer"

    def fit(self, patient: Patient) -> None:
        from torch.nn import init

        reinitialise(patient, self.name, lambda weight, g: init.orthogonal_(weight, generator=g), recurrent=True)


def reinitialise(patient: Patient, name: str, fill: Fill, *, recurrent: bool = False) -> None:
    """Has `fill` redraw the weights of each outermost module before its first forward, and in the first step matrices
    of the script's own.

    Random numbers come from a generator of our own, so the script draws the same batches as without the remedy.
    """
    import torch

    from gradbelt.supervise.rehearse import tied

    loaded = pretrained(patient)
    generator = numbers(patient)
    known: set[int] = set()  # weights that have been drawn, or must not be
    accounts: list[Deeds] = []  # kept only where there is something that an edit of the layers would miss

    def draw(weight: Tensor, blocks: int = 1) -> Tensor:
        drawn = torch.empty(weight.shape, dtype=torch.float32)
        for block in drawn.chunk(blocks):
            fill(block, generator)
        return drawn

    def at_model(root: nn.Module) -> None:
        shared = tied(root)
        known.update(shared)
        with torch.no_grad():
            for module in root.modules():
                if module in loaded or type(module).__module__.startswith("torch."):
                    known.update(map(id, module.parameters(recurse=False)))
                weights = _weights(module, recurrent=recurrent)
                if not weights or module in loaded or not first(module, "init"):
                    continue
                for weight, blocks in weights:
                    if id(weight) not in shared:
                        weight.copy_(draw(weight, blocks))

    def product(call: Call) -> Any:
        met = doors.at_weight(call)
        if patient.belt.step > 0 or met is None or not learns(call.args):
            return call.run()
        place, _, weight = met
        if id(weight) not in known and weight.dim() == 2:
            known.add(id(weight))
            # in numbers @ weight each column is a unit, elsewhere each row
            columns = call.name != "linear" and any(arg is weight for arg in call.args[place + 1 :])
            weight.data.copy_(draw(weight.T).T if columns else draw(weight))
            if not accounts:
                accounts.append(patient.deeds(name, otherwise=""))
            accounts[0](BY_HAND, call.where)
        return call.run()

    patient.at_model.append(at_model)
    intercept(patient, dict.fromkeys(("linear", *doors.PRODUCTS), product))


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
