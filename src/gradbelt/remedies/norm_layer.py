"""Normalise what each hidden layer hands to its activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import first, pretrained, rehearsed
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Call, Course


@dataclass(frozen=True, slots=True)
class NormLayer:
    """Each hidden linear layer is followed by a layer norm, each hidden convolution by a group norm, before the
    activation.

    Takes the size of weights and inputs out of the forward: for weights that start at the wrong size and nets without
    any norm. A deep net needs skip connections beside it. The norms have no parameters of their own, so optimizers and
    checkpoints stay as they are. Leaves alone the output layer, layers that run more than once, layers that a norm
    follows already, and a model that was loaded from a checkpoint.
    """

    name: ClassVar[str] = "norm_layer"
    invasive: ClassVar[Invasive] = Invasive.ARCHITECTURE
    SOURCE: ClassVar[str] = (
        "Ba, Kiros, Hinton 2016, arXiv 1607.06450; Wu and He 2018, arXiv 1803.08494; without gain and bias as in Xu et "
        "al. 2019, arXiv 1911.07013"
    )
    EDIT: ClassVar[str] = "nn.LayerNorm(n, elementwise_affine=False) between nn.Linear(m, n) and its activation"

    def fit(self, patient: Patient) -> None:
        loaded = pretrained(patient)

        def act(course: Course, _again: Any) -> int:
            if any(module in loaded for module in course.root.modules()):
                return 0
            found = [call for call in course.layers() if bare(call) and first(_module(call), self.name)]
            for call in found:
                # before other hooks: a skip connection goes around the norm
                _module(call).register_forward_hook(Normalise(groups(call)), prepend=True)
            return len(found)

        nothing = "no hidden layer without a norm, in a model that starts untrained"
        rehearsed(patient, self.name, act, what="norm behind a layer", nothing=nothing)


def bare(call: Call) -> bool:
    """Whether the layer's output goes into activations or other layers, and into nothing else."""
    followers = call.followers()
    return bool(followers) and all(each.is_activation or each.holds for each in followers)


def groups(call: Call) -> int:
    """Groups of a group norm with at least two channels each, at most 32; 0 for a layer norm."""
    from torch import nn

    if isinstance(call.module, nn.Linear):
        return 0
    channels = int(_module(call).out_channels)  # type: ignore[arg-type]
    return next(n for n in range(min(32, max(1, channels // 2)), 0, -1) if channels % n == 0)


@dataclass(frozen=True, slots=True)
class Normalise:
    """A forward hook; a class of its own, so that a model that wears it can be pickled."""

    groups: int

    def __call__(self, _layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
        from torch.nn import functional

        if self.groups:
            return functional.group_norm(output, self.groups).to(output.dtype)
        return functional.layer_norm(output, output.shape[-1:]).to(output.dtype)


def _module(call: Call) -> nn.Module:
    assert call.module is not None
    return call.module
