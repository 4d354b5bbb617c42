"""The first bad operation: the one whose inputs were finite and whose output is not."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradbelt._types import StepRecord
from gradbelt.examine.facts import Facts
from gradbelt.supervise.names import roots
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.sites import kind_of, short, user_frame

FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


class Tracer:
    """Follows every operation from the step `healthy` on, and leaves what it finds as an event of the black box.

    An operation that makes inf or nan in the healthy step as well does it on purpose (an additive mask of log(0), say)
    and is not the origin. Until then nothing is slowed down; where a snapshot was left before the healthy step, it is
    for whoever is woken from it to follow.
    """

    def __init__(self, patient: Patient, step: int, healthy: int | None) -> None:
        self._patient, self._healthy = patient, healthy
        self._active = True
        self._stack: list[nn.Module] = []
        self._handles: list[Any] = []
        self._mode: _Watch | None = None
        self._anomaly: Any = None
        self.facts = Facts(patient, step)
        patient.at_torch.append(self._open)
        patient.at_step.append(self._after)
        patient.after_step.append(self._over)
        patient.at_end.append(self._report)

    def aim(self, step: int | None, healthy: int | None) -> None:
        """Follows up to another step, or none: for a patient that was woken."""
        self._active, self._healthy = step is not None, healthy

    def _open(self, _patient: Patient) -> None:
        if self._healthy is None or self._healthy < 1:
            self._follow(on_purpose=self._healthy is not None)

    def _leave(self) -> None:
        if self._stack:
            self._stack.pop()

    def _after(self, row: StepRecord) -> None:
        """Called when a step was measured, before the optimizer uses it."""
        if row.step == self._healthy and self._mode is not None:
            self._mode.begin()

    def _over(self, step: int) -> None:
        """Called when a step is complete."""
        snapshots = self._patient.snapshots
        if self._active and self._healthy == step + 1 and (snapshots is None or step not in snapshots):
            self._follow(on_purpose=True)

    def _follow(self, *, on_purpose: bool) -> None:
        if self._mode is not None:
            return
        module = torch.nn.modules.module
        self._handles = [
            module.register_module_forward_pre_hook(lambda m, _args: self._stack.append(m)),
            module.register_module_forward_hook(lambda _m, _args, _out: self._leave(), always_call=True),
        ]
        self._mode = _Watch(self._stack, on_purpose=on_purpose)
        # keeps the forward stack of every node, which is how a backward operation finds its line; NaN is our own look-
        # out
        self._anomaly = torch.autograd.set_detect_anomaly(True, check_nan=False)
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def _report(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._anomaly.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        found = self._mode.origin() if self._mode is not None else None
        self._patient.event("evidence", "measured while running again", origin=found, **self.facts.gathered())


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the output of every operation until the first bad one is found."""

    def __init__(self, stack: list[nn.Module], *, on_purpose: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stack, self._learning = stack, on_purpose
        self._deliberate: set[tuple[str, str | None, int | None]] = set()
        self._module_at: dict[tuple[str | None, int | None], dict[str, nn.Module]] = {}
        self._found: dict[str, Any] | None = None
        self._compared = on_purpose  # whether a healthy step was, or will be, seen first

    def begin(self) -> None:
        """The healthy step is over: from now on what is bad is bad."""
        self._learning = False

    def origin(self) -> dict[str, Any] | None:
        return self._found

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._found is None:
            self._remember_line(_short(str(func)))
            bad = self._badness(func, args, kwargs or {}, out)
            if bad is not None:
                self._note(func, *bad, args, kwargs or {})
        return out

    def _remember_line(self, op: str) -> None:
        """Which module this line of the user's belongs to, for the backward operations that it will have."""
        node: Any = torch._C._current_autograd_node()
        if self._stack and node is None:
            frame = user_frame(sys._getframe(2))
            if frame is not None:
                site = short(frame.f_code.co_filename), frame.f_lineno
                self._module_at.setdefault(site, {})[op] = self._stack[-1]

    def _badness(self, func: Any, args: Any, kwargs: Any, out: Any) -> tuple[str, str] | None:
        """What is bad about the output, "nan" or "inf", and how it came about.

        "made": nan out of no nan, inf out of nothing but finite numbers. "carried": it was in what went in; the first
        such operation is where bad data, or a bad weight, enters. None: nothing is, or the script asked for it.
        """
        bad = _worst(_tensors(out))
        if bad is None:
            return None
        # an in-place operation has overwritten its first input by now: what it wrote is its output, not its input
        written = {id(tensor) for tensor in _tensors(out)}
        given = [tensor for tensor in _tensors((args, kwargs)) if id(tensor) not in written]
        scalars = [value for value in (*_flat(args), *_flat(kwargs)) if isinstance(value, float)]
        if any(value != value or value in (float("inf"), float("-inf")) for value in scalars):
            return None  # the script asked for it: masked_fill(mask, -inf)
        if any(word in str(func) for word in ("empty", "resize", "set_", "as_strided", "view", "detach")):
            return None  # memory not written yet, or looked at anew
        inputs = _worst(given)
        if inputs == "nan" or (inputs == "inf" and bad == "inf"):
            if any(tensor.requires_grad and tensor.is_leaf and _worst([tensor]) for tensor in given):
                return bad, "weight"
            # at step 0 there is no healthy step to compare with, and -inf may well be a mask made before
            return (bad, "carried") if bad == "nan" or self._compared else None
        return bad, "made"

    def _note(self, func: Any, kind: str, how: str, args: Any, kwargs: Any) -> None:
        if _is_measuring():
            return
        node: Any = torch._C._current_autograd_node()
        name = _short(str(func))
        if node is None:
            frame = user_frame(sys._getframe(1))
            file = short(frame.f_code.co_filename) if frame is not None else None
            line = frame.f_lineno if frame is not None else None
            stage = "update" if _in_optimizer() else "forward"
            module = _path(self._stack[-1]) if self._stack else None
        else:
            stage = "backward"
            name = _forward_name(node.name()) or name
            file, line = _line_of(node)
            ran = self._module_at.get((file, line), {})  # one line may run several modules
            owner = ran.get(name) or (next(iter(ran.values())) if len({*map(id, ran.values())}) == 1 else None)
            module = _path(owner) if owner is not None else None
        site = (name, file, line)
        if self._learning:
            self._deliberate.add(site)
            return
        if site in self._deliberate:
            return
        if how == "carried":
            stage = "data" if stage == "forward" else stage
        elif how == "weight":
            stage = "update"
        low, high = _range(args, kwargs)
        self._found = {
            "stage": stage,
            "op": name,
            "module": module,
            "file": file,
            "line": line,
            "made": kind,
            "low": low,
            "high": high,
        }


def _short(op: str) -> str:
    """The name a user would know: "aten._softmax.default" -> "softmax", "aten.nll_loss_forward.default" ->
    "nll_loss"."""
    name = op.removeprefix("aten.").split(".")[0].strip("_")
    return name.removeprefix("native_").removesuffix("_forward")


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (
        leaf for leaf in _flat(tree) if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    )


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from _flat(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from _flat(branch)
    else:
        yield tree


def _worst(tensors: Iterable[Tensor]) -> str | None:
    """ "nan" if any element of any tensor is, else "inf" if any is, else None."""
    worst = None
    for tensor in tensors:
        values = tensor.detach()
        if values.is_sparse:
            values = values.coalesce().values()
        if values.numel() == 0 or bool(torch.isfinite(values).all()):
            continue
        if bool(torch.isnan(values).any()):
            return "nan"
        worst = "inf"
    return worst


def _range(args: Any, kwargs: Any) -> tuple[float | None, float | None]:
    """Smallest and largest absolute value that went in."""
    sizes = [t.detach().abs().double() for t in _tensors((args, kwargs)) if not t.is_sparse and t.numel()]
    sizes = [size[torch.isfinite(size)] for size in sizes]
    sizes = [size for size in sizes if size.numel()]
    if not sizes:
        return None, None
    return min(float(size.min()) for size in sizes), max(float(size.max()) for size in sizes)


def _forward_name(node: str) -> str | None:
    """The operation whose derivative a node computes: "SqrtBackward0" -> "sqrt"."""
    match = re.fullmatch(r"(?P<name>\w+?)Backward\d*", node)
    if match is None:
        return None
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", match["name"]).lower().strip("_")


def _line_of(node: Any) -> tuple[str | None, int | None]:
    """The user's line that ran the forward operation of an autograd node."""
    stack = "".join(node.metadata.get("traceback_", []))
    for match in reversed(list(FRAME.finditer(stack))):
        if kind_of(match["file"]) == "user":
            return short(match["file"]), int(match["line"])
    return None, None


def _path(module: nn.Module) -> str | None:
    """The module as `named_modules` calls it; None for the outermost one, where there is but one."""
    for name, root in roots():
        for path, inner in root.named_modules():
            if inner is module:
                return ".".join(part for part in (name, path) if part) or None
    return type(module).__name__


def _is_measuring() -> bool:
    """Whether the operation is one of our own: the belt reads gradients while we look on."""
    for frame, _ in traceback.walk_stack(sys._getframe(1)):
        kind = kind_of(frame.f_code.co_filename)
        if kind == "user":
            return False
        if kind == "ours" and f"{os.sep}kernels{os.sep}" in frame.f_code.co_filename:
            return True
    return False


def _in_optimizer() -> bool:
    """Whether the operation runs inside torch's own optimizer code."""
    optim = os.path.join("torch", "optim") + os.sep
    return any(optim in frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(1)))
