"""A model's first forward, run once beside the script: which layers and functions it calls, and what feeds what.

What a remedy has to know of a model cannot be read off its modules: they are registered in one order and called in
another, and half of a forward is functions. So the forward runs once more, before the script's own, and is undone:
random numbers, buffers, attributes and arguments are afterwards what they were.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gradbelt.errors import GradbeltError
from gradbelt.supervise.sites import line, outward

ACTIVATIONS = {
    "relu", "relu6", "leakyrelu", "gelu", "silu", "mish", "elu", "selu", "celu", "prelu", "rrelu", "sigmoid", "tanh",
    "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "softplus", "softsign", "tanhshrink", "threshold",
}  # fmt: skip
NORMS = ("layernorm", "groupnorm", "batchnorm", "instancenorm", "rmsnorm", "localresponsenorm", "normalize")
PASSING = {
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "contiguous", "squeeze", "unsqueeze", "clone",
    "to", "float", "half", "bfloat16", "type", "typeas", "identity", "dropout", "alphadropout", "featuredropout",
    "dropout1d", "dropout2d", "dropout3d", "getitem", "get", "moveaxis", "swapaxes", "expand",
    "maxpool1d", "maxpool2d", "maxpool3d", "avgpool1d", "avgpool2d", "avgpool3d", "adaptiveavgpool2d",
}  # fmt: skip
"""Names of what moves values about without changing their size much, written as `plain` writes them."""
SUMS = {"add", "radd", "iadd"}
PRODUCTS = {"matmul", "rmatmul", "bmm"}


class NoRehearsal(GradbeltError):
    """The model can't be run beside the script; says why."""


@dataclass(slots=True, eq=False)
class Call:
    """One call of a layer, or of a function of torch outside of layers; a tensor given to the model is one, too."""

    name: str  # of the layer's class or the function, plain: "linear", "relu", "add"
    module: nn.Module | None = None
    site: str = ""  # "train.py:12", the line that called a function
    operands: tuple[Call | None, ...] = ()  # who made each tensor argument; None: nobody that was seen
    given: torch.Size | None = None  # shape of the first tensor argument
    made: torch.Size | None = None
    holds: bool = False  # has a weight matrix
    within: tuple[nn.Module, ...] = ()  # the blocks around it, the outermost first
    users: list[Call] = field(default_factory=list)

    @property
    def is_layer(self) -> bool:
        """Whether it is one of torch's own linear or convolution layers."""
        return isinstance(self.module, nn.Linear | nn.modules.conv._ConvNd)

    @property
    def is_activation(self) -> bool:
        return self.name in ACTIVATIONS

    @property
    def is_norm(self) -> bool:
        return self.name.startswith(NORMS) or (self.module is not None and "norm" in self.name)

    def followers(self, *, past_norms: bool = False) -> list[Call]:
        """What uses the result, looking through what only moves it about (and through norms)."""
        found: list[Call] = []
        todo, seen = list(self.users), set[int]()
        while todo:
            call = todo.pop(0)
            if id(call) in seen:
                continue
            seen.add(id(call))
            if call.name in PASSING or (past_norms and call.is_norm):
                todo += call.users
            else:
                found.append(call)
        return found

    def origin(self) -> Call:
        """Where the value comes from, looking through what only moved it about."""
        call = self
        while call.name in PASSING and call.operands and call.operands[0] is not None:
            call = call.operands[0]
        return call


@dataclass(slots=True, eq=False)
class Block:
    """One call of a module that is made of others: one tensor in, one tensor out."""

    module: nn.Module
    source: Call | None
    result: Call | None
    given: torch.Size | None
    made: torch.Size | None
    outer: tuple[nn.Module, ...]  # the blocks around it


@dataclass(slots=True, eq=False)
class Branch:
    """A residual addition: `trunk` goes on past the branch, whose last value is `end`."""

    trunk: Call
    end: Call
    inside: list[Call]


@dataclass(slots=True, eq=False)
class Course:
    """One forward of `root`."""

    root: nn.Module
    calls: list[Call]  # in their order
    blocks: list[Block]

    def layers(self) -> list[Call]:
        """Linear and convolution layers that may be changed one by one: they run once, are not the model's output, and
        share their weight with no other."""
        runs, shared = self.runs(), tied(self.root)
        return [
            call
            for call in self.calls
            if call.is_layer
            and call.module is not None
            and runs[call.module] == 1
            and not self.is_head(call)
            and isinstance(weight := call.module._parameters.get("weight"), nn.Parameter)  # not one that is computed
            and id(weight) not in shared
        ]

    def runs(self) -> dict[nn.Module, int]:
        """How often each layer runs."""
        found: dict[nn.Module, int] = {}
        for call in self.calls:
            if call.module is not None:
                found[call.module] = found.get(call.module, 0) + 1
        return found

    def leads_to(self, one: Call, other: Call) -> bool:
        """Whether what `one` made has a part in what `other` makes."""
        return other in _reach([one], lambda c: c.users)[1:]

    def is_head(self, call: Call) -> bool:
        """Whether no other weights come after it."""
        return not any(user.holds for user in _reach([call], lambda c: c.users)[1:])

    def branches(self) -> list[Branch]:
        """Sums of a value and what weights have made of that same value."""
        found = []
        for call in self.calls:
            if call.name not in SUMS or len(call.operands) < 2:
                continue
            one, other = call.operands[:2]
            for trunk, end in ((one, other), (other, one)):
                if trunk is None or end is None or trunk is end:
                    continue
                after = set(map(id, _reach([trunk], lambda c: c.users)))
                before = _reach([end], lambda c: [o for o in c.operands if o is not None])
                inside = [call for call in before if id(call) in after and call is not trunk]
                if any(call.holds for call in inside):
                    found.append(Branch(trunk, end, inside))
                    break
        return found


def rehearse(root: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], *watch: Callable[[], Any]) -> Course:
    """What happens in `root(*args, **kwargs)`, without a trace of it.

    Args:
        watch: Contexts to be entered around the forward, given as functions that make them.

    Raises:
        NoRehearsal: The model is compiled, scripted or spread over devices, its layers are not there yet, or it raised.
    """
    if why := _unfit(root):
        raise NoRehearsal(why)
    if any(hasattr(leaf, "__next__") for leaf in tree_leaves((tuple(args), kwargs))):
        raise NoRehearsal("the model is given an iterator, which a rehearsal would use up")
    notes = _Notes(root)
    with ExitStack() as stack:
        stack.enter_context(_undone(root))
        for each in watch:
            stack.enter_context(each())
        args, kwargs = tree_map(_own, tuple(args)), tree_map(_own, dict(kwargs))
        notes.arguments(tree_leaves((args, kwargs)))
        stack.enter_context(notes.listening())
        try:
            root(*args, **kwargs)
        except Exception as error:
            raise NoRehearsal(f"its forward raised {type(error).__name__} when it ran beside the script") from error
    return Course(root, notes.calls, notes.blocks)


def plain(name: str) -> str:
    """
    >>> plain("LeakyReLU"), plain("leaky_relu_"), plain("__iadd__"), plain("LazyBatchNorm1d")
    ('leakyrelu', 'leakyrelu', 'iadd', 'lazybatchnorm1d')
    """
    return name.lower().replace("_", "")


def tied(root: nn.Module) -> set[int]:
    """Ids of the weights that more than one module holds, as an output layer that shares its embedding."""
    count: dict[int, int] = {}
    for module in root.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                count[id(parameter)] = count.get(id(parameter), 0) + 1
    return {key for key, held in count.items() if held > 1}


def site() -> str:
    """The line that called a function of torch: the innermost that is neither torch's nor ours."""
    return next((line(frame) for frame, kind in outward(sys._getframe(1)) if kind in ("user", "library")), "?")


def _reach(start: Iterable[Call], step: Callable[[Call], Iterable[Call]]) -> list[Call]:
    """All calls that can be reached, the nearest first; those it began with among them."""
    found: dict[int, Call] = {id(call): call for call in start}
    todo = list(found.values())
    while todo:
        for call in step(todo.pop(0)):
            if id(call) not in found:
                found[id(call)] = call
                todo.append(call)
    return list(found.values())


def _unfit(root: nn.Module) -> str | None:
    for module in root.modules():
        kind = type(module).__name__
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            return "the model is compiled"
        if isinstance(module, torch.jit.ScriptModule):
            return "the model is scripted"
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) or kind.startswith(
            ("FSDP", "FullySharded")
        ):
            return f"the model is wrapped in {kind}"
        if any(nn.parameter.is_lazy(p) for p in module._parameters.values() if p is not None):
            return "its layers are made at the first forward"
    return None


def _own(value: Any) -> Any:
    """A copy of a tensor argument, so that writing into it is not seen outside."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


class _Notes(TorchFunctionMode):
    """Writes down calls while a forward runs."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self._root = root
        self.calls: list[Call] = []
        self.blocks: list[Block] = []
        self._makers: dict[int, Call] = {}  # id of a tensor -> the call that made it
        self._alive: list[Tensor] = []  # a freed tensor's id would be used again
        self._open: list[Block] = []
        self._inside = 0  # layers of torch that are running: their insides are not noted

    def arguments(self, leaves: Iterable[Any]) -> None:
        self._made(Call("input"), [leaf for leaf in leaves if isinstance(leaf, Tensor)])

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles: list[Any] = []
        for module in self._root.modules():
            whole = _is_whole(module)
            before, after = (self._enter, self._leave) if whole else (self._begin, self._end)
            handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._inside:
            made = [leaf for leaf in _flat(result) if isinstance(leaf, Tensor)]
            given = [leaf for leaf in _flat((args, kwargs or {})) if isinstance(leaf, Tensor)]
            if made and (given or not args):
                self._note(Call(plain(getattr(func, "__name__", "?")), site=site()), given, made)
        return result

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside += 1

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self._inside -= 1
        if not self._inside:
            call = Call(plain(type(module).__name__), module)
            call.holds = not call.is_norm and any(parameter.dim() >= 2 for parameter in module.parameters())
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self._note(call, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)], made)

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._inside:
            return
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        source = self._makers.get(id(given[0])) if given else None
        outer = tuple(block.module for block in self._open)
        self._open.append(Block(module, source, None, given[0].shape if given else None, None, outer))

    def _end(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if self._inside:
            return
        block = self._open.pop()
        if isinstance(result, Tensor):
            block.result, block.made = self._makers.get(id(result)), result.shape
        self.blocks.append(block)

    def _note(self, call: Call, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        call.within = tuple(block.module for block in self._open)
        call.operands = tuple(self._makers.get(id(tensor)) for tensor in given)
        call.given = given[0].shape if given else None
        call.made = made[0].shape if made else None
        call.holds |= any(isinstance(tensor, nn.Parameter) and tensor.dim() >= 2 for tensor in given)
        for operand in call.operands:
            if operand is not None:
                operand.users.append(call)
        self.calls.append(call)
        self._made(call, made)

    def _made(self, call: Call, made: Iterable[Tensor]) -> None:
        for tensor in made:
            self._makers[id(tensor)] = call
            self._alive.append(tensor)


def _flat(value: Any) -> Iterator[Any]:
    """Tensors of a function's arguments; attention and cat take lists, nothing lies deeper."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,):
        if isinstance(item, tuple | list | dict):
            yield from _flat(item)
        else:
            yield item


def _is_whole(module: nn.Module) -> bool:
    """Whether a module is noted as one call: torch's own layers, and norms whoever wrote them."""
    childless = next(module.children(), None) is None
    torchs = type(module).forward.__module__.startswith("torch.nn.modules")
    return isinstance(module, nn.MultiheadAttention) or (childless and (torchs or "Norm" in type(module).__name__))


# ------------------------------------------------------------------------------------------------------------- undoing


@contextmanager
def _undone(root: nn.Module) -> Iterator[None]:
    """Random numbers, buffers and the modules' attributes are afterwards what they were; no global hook fires."""
    devices = {tensor.device for tensor in (*root.parameters(), *root.buffers()) if tensor.device.type == "cuda"}
    numpy = sys.modules.get("numpy")
    drawn = random.getstate(), None if numpy is None else numpy.random.get_state()
    modules = list(root.modules())
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module._buffers.values()
               if buffer is not None]  # fmt: skip
    attributes = [(module, dict(vars(module)), _copies(vars(module))) for module in modules]
    silenced: tuple[dict[int, Any], ...] = (
        hooks._global_forward_pre_hooks, hooks._global_forward_hooks,
        hooks._global_backward_hooks, hooks._global_backward_pre_hooks,
    )  # fmt: skip
    before = [dict(each) for each in silenced]
    for each in silenced:
        each.clear()
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        for each, old in zip(silenced, before, strict=True):
            each.update(old)
        random.setstate(drawn[0])
        if numpy is not None:
            numpy.random.set_state(drawn[1])
        for module, own, copies in attributes:
            vars(module).clear()
            vars(module).update(own)
            for name, content in copies.items():
                _refill(own[name], content)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _copies(attributes: dict[str, Any]) -> dict[str, Any]:
    """Lists and dicts among them, hooks and parameters too, copied one level deep."""
    return {name: copy.copy(value) for name, value in attributes.items() if isinstance(value, list | dict | set)}


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)
