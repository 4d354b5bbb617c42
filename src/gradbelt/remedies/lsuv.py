"""Every layer's output of variance one on the first batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import first, numbers, paths, pretrained, rehearsed
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradbelt.remedies.each_model import Again
    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Course

TOLERANCE = 0.1  # of the variance
PASSES = 10
WHAT = "layer brought to variance one"


@dataclass(frozen=True, slots=True)
class Lsuv:
    """Weights of hidden linear and convolution layers become orthogonal, then are divided, one layer after the other in
    the order they run, until each output has variance one on the script's first batch.

    Finds the right size whatever the activation is. Biases, norms, the output layer, layers that run more than once,
    tied weights and anything that came from a checkpoint stay as they are.
    """

    name: ClassVar[str] = "lsuv"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "Mishkin and Matas 2016, arXiv 1511.06422, algorithm 1"
    EDIT: ClassVar[str] = (
        "nn.init.orthogonal_(layer.weight), then layer.weight /= layer(x).std() on the first batch, layer by layer"
    )

    def fit(self, patient: Patient) -> None:
        from torch import empty, no_grad
        from torch.nn import init

        loaded, generator = pretrained(patient), numbers(patient)

        def act(course: Course, again: Again) -> int:
            layers = [call.module for call in course.layers() if call.module and call.module not in loaded]
            layers = [layer for layer in layers if first(layer, self.name)]
            with no_grad():
                for layer in layers:
                    weight: Any = layer.weight
                    weight.copy_(init.orthogonal_(empty(weight.shape), generator=generator))
            if layers:
                again(lambda: _rescaling(layers))
                deeds.facts[WHAT, ""] = {"layers": paths(course.root, layers)}
            return len(layers)

        nothing = "no hidden layer of torch's own that starts untrained"
        deeds = rehearsed(patient, self.name, act, what=WHAT, nothing=nothing)


@contextmanager
def _rescaling(layers: list[nn.Module]) -> Iterator[None]:
    """While it lasts, each layer that runs is brought to variance one, and so is what the next one gets to see."""
    handles = [layer.register_forward_hook(rescale, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rescale(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    """Divides the weight until the output's variance is one; a hook, whose answer takes the output's place."""
    from torch import no_grad

    with no_grad():
        for _ in range(PASSES):
            variance = float(output.float().var())
            if not 0.0 < variance < math.inf or abs(variance - 1.0) < TOLERANCE:
                break
            layer.weight.div_(math.sqrt(variance))  # type: ignore[operator]
            output = layer.forward(*args, **kwargs)
    return output
