"""Gates around a plain recurrent layer."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import numbers, replace
from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise.calls import Call, intercept

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from gradbelt.supervise.patient import Patient

GATES = 3  # of a GRU: reset, update, new
GATED = "plain layer gated"
WRITTEN = "a weight that the script writes"


@dataclass(frozen=True, slots=True)
class GatedRnn:
    """nn.RNN is nn.GRU and nn.RNNCell is nn.GRUCell, of the same sizes, from construction on.

    A gate that carries the state over adds where a plain layer multiplies by its matrix once a time step. The contract
    is the same: layers, directions, batch_first, dropout, (output, h), h0. A checkpoint of a plain layer that is loaded
    afterwards makes it plain again. A weight that the script writes itself, in the shape of a plain layer's, is that of
    the new state, not of the gates. A recurrence written by hand and subclasses of nn.RNN stay as they are.
    """

    name: ClassVar[str] = "gated_rnn"
    invasive: ClassVar[Invasive] = Invasive.ARCHITECTURE
    SOURCE: ClassVar[str] = "Cho et al. 2014, arXiv 1406.1078; Chung et al. 2014, arXiv 1412.3555"
    EDIT: ClassVar[str] = "nn.GRU instead of nn.RNN, nn.GRUCell instead of nn.RNNCell"

    def fit(self, patient: Patient) -> None:
        import torch
        from torch import nn

        from gradbelt.supervise.sites import here

        generator, data = numbers(patient), vars(torch._C.TensorBase)["data"]
        plain: weakref.WeakKeyDictionary[nn.Module, tuple[str, dict[str, Tensor]]] = weakref.WeakKeyDictionary()
        deeds = patient.deeds(self.name, otherwise="no nn.RNN or nn.RNNCell that starts untrained", soon=True)

        def construct(original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)  # draws what it draws without the remedy
            if type(module) in (nn.RNN, nn.RNNCell):
                plain[module] = here(), {name: parameter.data for name, parameter in module.named_parameters()}
                gate(module, generator)
                deeds(GATED, plain[module][0])

        def load(original: Callable[..., Any], module: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            for prefix, each in module.named_modules():
                where, old = plain.get(each, ("", {}))
                if any(_shape(state, prefix, name) == tensor.shape for name, tensor in old.items()):
                    del plain[each]  # first, or its old weights would be written as a script's are
                    ungate(each, old)
                    deeds.done -= Counter([(GATED, where)])
            return original(module, state, *args, **kwargs)

        def write(call: Call) -> Any:
            whole, *within, part = call.args
            meant = call.func == data.__set__ or all(isinstance(i, slice) for i in within)
            if not meant or not isinstance(part, torch.Tensor) or not _is_part(part, whole):
                return call.run()
            memory = whole.data_ptr()
            if all(memory != parameter.data_ptr() for module in plain for parameter in module.parameters()):
                return call.run()
            deeds(WRITTEN, call.where)
            return call.put(len(call.args) - 1, _filled(part, whole))

        def register(original: Callable[..., Any], module: Any, name: str, parameter: Any) -> None:
            whole = module._parameters.get(name) if module in plain else None
            if whole is not None and parameter is not None and _is_part(parameter, whole):
                deeds(WRITTEN, here())
                parameter.data = _filled(parameter, whole)
            original(module, name, parameter)

        replace(patient, nn.RNN, "__init__", construct)
        replace(patient, nn.RNNCell, "__init__", construct)
        replace(patient, nn.Module, "load_state_dict", load)
        replace(patient, nn.Module, "register_parameter", register)
        intercept(patient, {"copy_": write, "__setitem__": write, "__set__": write})


def gate(module: nn.Module, generator: Generator) -> None:
    """The very object becomes gated, its parameters too: whoever holds them holds the new ones."""
    import torch
    from torch import nn

    bound = 1.0 / math.sqrt(int(module.hidden_size))  # type: ignore[arg-type]
    for parameter in module.parameters():
        shape = (GATES * parameter.shape[0], *parameter.shape[1:])
        drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        parameter.data = drawn.to(parameter.device, parameter.dtype)
    _become(module, nn.GRU if isinstance(module, nn.RNN) else nn.GRUCell)


def ungate(module: nn.Module, old: dict[str, Tensor]) -> None:
    """Makes the object what it was."""
    from torch import nn

    for name, parameter in module.named_parameters():
        parameter.data = old[name].to(parameter.device, parameter.dtype)
    _become(module, nn.RNN if isinstance(module, nn.GRU) else nn.RNNCell)


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    from torch import nn

    module.__class__ = kind
    if isinstance(module, nn.RNNBase):
        module.mode = "GRU" if kind is nn.GRU else f"RNN_{str(module.nonlinearity).upper()}"
        module.flatten_parameters()


def _is_part(part: Tensor, whole: Tensor) -> bool:
    """Whether it has the shape that the weight `whole` had in a plain layer."""
    return part.dim() > 0 and (GATES * part.shape[0], *part.shape[1:]) == tuple(whole.shape)


def _filled(part: Tensor, whole: Tensor) -> Tensor:
    """`whole` with `part` in the place of the new state's weight."""
    import torch

    return torch.cat([whole.detach()[: -part.shape[0]], part.detach().to(whole)])


def _shape(state: Any, prefix: str, name: str) -> Any:
    return getattr(state.get(f"{prefix}.{name}" if prefix else name), "shape", None)
