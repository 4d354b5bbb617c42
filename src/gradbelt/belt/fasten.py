"""`fasten`: the belt around an optimizer."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradbelt._types import SHARE, StepRecord, Verdict
from gradbelt.belt.belt import Belt
from gradbelt.belt.buckle import Buckle
from gradbelt.belt.forward import Forward
from gradbelt.clip import Chain, Rule
from gradbelt.errors import UsageError
from gradbelt.recover.ring import Snapshots


def fasten(
    model: torch.nn.Module | None,
    optimizer: Optimizer | Iterable[Optimizer],
    clip: Rule | Chain | float | str | None = "auto",
    *,
    guard: bool = True,
    wait: bool | None = None,
    write: Callable[[StepRecord], None] | None = None,
    tell: Callable[[Verdict], None] | None = None,
    activations: float | None = None,
    snapshots: Snapshots | int | None = None,
    scaler: GradScaler | None = None,
) -> Belt:
    """Every step of `optimizer` from now on is measured, clipped and, where its gradient is nan or inf, left out.

    Args:
        model: Names the parameters in messages and records; None leaves them numbered.
        optimizer: One `torch.optim` optimizer, or several that step by turns.
        clip: A rule, a number (global L2 norm), `"auto"`, `"norm:1.0"`, `"value:0.5"`, or None to clip nothing.
        guard: Keep steps whose gradient is not finite out of the weights (parameters, moments and counters untouched).
        wait: Whether the host waits at each step until the device has measured it. Without waiting the device decides,
            and the record of a step is written, and judged, when the same optimizer steps again (or at `catch_up` and
            `release`). That takes a fused optimizer (if anything is to be clipped or guarded), parameters of at most 32
            bits on one device, and a rule whose limit follows from the past (Norm, Auto, Ema, ...); the rules decide
            the same. None: on CUDA it doesn't wait where all that is given. False: never, or UsageError.
        write: Called with the record of each step.
        tell: Called with what the detectors found, at each step where they found something.
        activations: The share of time that may go into looking at what modules put out, at chosen steps: for saturated
            and dead units, and logits that grow. 0 for none, inf for at every step. None: 0.02 where `write` or `tell`
            is given, for nobody would hear of it otherwise. Nothing is looked at once torch.compile has compiled.
        snapshots: Copies of the training to go back to with `belt.rollback()`: the steps between two of them, or
            `gradbelt.recover.ring.Snapshots`, which takes schedulers and a GradScaler along. Needs the model.
        scaler: The GradScaler that the loss is scaled by: its scale is recorded, and told of where it keeps falling.

    At the first steps the buckle is checked: clipping that has no effect, gradients that are never zeroed, parameters
    that no optimizer holds and the like are said once, as a `gradbelt.errors.BuckleWarning`.

    Returns:
        The belt; `belt.release()` takes every hook off again, and so does leaving it as a context manager.

    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> belt = fasten(model, optimizer, clip=1.0)
    >>> loss = belt.see(model(torch.full((8, 4), 1e3)).square().mean())
    >>> loss.backward()
    >>> optimizer.step()
    >>> belt.last.action, round(belt.last.total_after, 3)
    ('scale', 1.0)
    """
    names = {} if model is None else {id(parameter): name for name, parameter in model.named_parameters()}

    def name(parameters: Sequence[Tensor]) -> tuple[str, ...]:
        return tuple(names.get(id(parameter), f"parameter {i}") for i, parameter in enumerate(parameters))

    known = weakref.ref(model) if model is not None else lambda: None
    if activations is None:
        activations = 0.0 if write is None and tell is None else SHARE
    forward = Forward(activations, name=lambda parameter: names.get(id(parameter)), warn=_warn)
    belt = Belt(clip=clip, guard=guard, wait=wait, write=write, name=name, tell=tell, forward=forward)
    belt.advises, belt.scaler = True, scaler
    belt.buckle = Buckle(
        parameters=lambda: () if (still := known()) is None else still.named_parameters(),
        optimizers=lambda: list(belt._handles),
    )
    for each in (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer):
        belt.hold(each)
    if snapshots is not None:
        if model is None:
            raise UsageError("snapshots are of a model: give fasten the model, not None")
        belt.snapshots = Snapshots(snapshots) if isinstance(snapshots, int) else snapshots
        belt.snapshots.fit(model, lambda: list(belt._handles), belt.state_dict)
    return belt


def _warn(sentence: str) -> None:
    with contextlib.suppress(Warning):  # raised where warnings are errors, which must not end a training
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
