"""Where an operation stands: forward, backward or update, the user's line, the module around it."""

from __future__ import annotations

import functools
import os
import re
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

from gradbelt.supervise.names import name_of
from gradbelt.supervise.sites import outward, short

_OPTIMIZERS = os.path.join("torch", "optim") + os.sep
_ENGINE = os.path.join("torch", "autograd") + os.sep
_TRACING = tuple(os.path.join(os.path.dirname(__file__), name) for name in ("place.py", "follow.py"))
_LOOKING = tuple(f"{os.sep}gradbelt{os.sep}{part}{os.sep}" for part in ("kernels", "belt", "examine"))


@dataclass(frozen=True, slots=True)
class Place:
    """An operation in the user's code. `file` and `line` are None where it cannot be known."""

    stage: str  # "forward" | "backward" | "update"
    op: str
    module: nn.Module | None
    file: str | None
    line: int | None

    @property
    def key(self) -> tuple[str, str | None, int | None]:
        """What is the same each time the line runs."""
        return self.op, self.file, self.line


class Places:
    """Knows where each operation that runs stands, and for one on its way back, where it stood on its way forward.

    An autograd node is numbered when it is made, right before its operation runs: under that number the operation's
    place is kept for the way back. So a line that runs several modules, or one module twice, is told apart.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules  # those that are running, the innermost last
        self._nodes: dict[int, Place] = {}

    def remember(self, func: Any) -> None:
        """Keeps the place of the node that was made for this operation, if one was."""
        number = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        if number not in self._nodes:
            self._nodes[number] = self.now(func)

    def now(self, func: Any) -> Place:
        """The place of the operation that is running."""
        node: Any = torch._C._current_autograd_node()
        back = node is not None or torch._C._current_graph_task_id() != -1
        frame, updating = _users(sys._getframe(1), inside_engine=back)
        op = _op(func)
        if back and frame is None:  # one of torch's own derivatives
            made = None if node is None else self._nodes.get(node._sequence_nr())
            if made is not None:
                return Place("backward", of_node(node.name()) or made.op, made.module, made.file, made.line)
            return Place("backward", (None if node is None else of_node(node.name())) or op, None, None, None)
        stage = "backward" if back else "update" if updating else "forward"
        module = self._modules[-1] if self._modules else None
        if back and node is not None and module is None and (made := self._nodes.get(node._sequence_nr())):
            module = made.module  # the derivative is the user's own, of an operation in there
        if frame is None:
            return Place(stage, op, module, None, None)
        return Place(stage, op, module, short(frame.f_code.co_filename), frame.f_lineno)


def is_ours() -> bool:
    """Whether the operation that is running is gradbelt's own: the belt reads gradients while we look on."""
    for frame, kind in outward(sys._getframe(1)):
        name = frame.f_code.co_filename
        if kind == "user":
            return False
        # a function mode stands between every operation and whoever called it, the belt too
        if kind == "ours" and name not in _TRACING and frame.f_code.co_name != "__torch_function__":
            return any(part in name for part in _LOOKING)
    return False


def path_of(module: nn.Module | None) -> str | None:
    """The module as `named_modules` calls it; None for the outermost one, where there is but one."""
    return None if module is None else name_of(module)


@functools.cache
def _op(func: Any) -> str:
    return plain(str(func))


def plain(op: str) -> str:
    """The name a user would know.

    >>> plain("aten._softmax.default"), plain("aten.nll_loss_forward.default"), plain("aten.add_.Tensor")
    ('softmax', 'nll_loss', 'add')
    """
    name = op.removeprefix("aten.").split(".")[0].strip("_")
    return name.removeprefix("native_").removesuffix("_forward")


def of_node(node: str) -> str | None:
    """The operation whose derivative an autograd node computes; None for a node that computes none.

    >>> of_node("SqrtBackward0"), of_node("LinalgEighBackward0"), of_node("NativeLayerNormBackward0")
    ('sqrt', 'linalg_eigh', 'layer_norm')
    """
    match = re.fullmatch(r"(?P<name>\w+?)Backward\d*", node)
    if match is None:
        return None
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", match["name"]).lower().strip("_").removeprefix("native_")


def _users(frame: FrameType | None, *, inside_engine: bool) -> tuple[FrameType | None, bool]:
    """The innermost frame of user code, else of a library; and whether torch's own optimizer runs inside of it.

    While gradients are computed, only what the engine has called counts: a custom derivative, a hook, a checkpoint.
    """
    library, updating = None, False
    for each, kind in outward(frame):
        name = each.f_code.co_filename
        if kind == "user":
            return each, updating
        if inside_engine and each.f_code.co_name == "_engine_run_backward" and _ENGINE in name:
            return None, False
        if kind == "library" and library is None:
            library = each
        updating = updating or _OPTIMIZERS in name
    return library, updating
