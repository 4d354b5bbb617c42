"""Measuring and clipping gradients: ours against torch.nn.utils, same tensors, same process."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.table import Table, interleaved, median, milliseconds, ratio
from gradbelt import kernels
from gradbelt._types import History, Measurement, Scale
from gradbelt.clip import Norm
from gradbelt.clip.dropin import clip_grad_norm_
from gradbelt.kernels import foreach


def gpt() -> list[tuple[int, ...]]:
    """A GPT of 14 M parameters: 8 layers of width 384, 65 characters, 256 positions."""
    d = 384
    layer: list[tuple[int, ...]] = [(3 * d, d), (3 * d,), (d, d), (d,), (4 * d, d), (4 * d,), (d, 4 * d), *[(d,)] * 5]
    return [(65, d), (256, d), *layer * 8, (d,), (d,)]


SETS: dict[str, list[tuple[int, ...]]] = {
    "GPT, 14 M": gpt(),
    "400 x 64": [(64,)] * 400,
    "12 x 1 M": [(1024, 1024)] * 12,
}
NEVER = 1e9


def run(device: str) -> list[Table]:
    sets = {name: gradients(shapes, torch.device(device)) for name, shapes in SETS.items()}
    rows = [row for name, (parameters, flat) in sets.items() for row in compare(name, parameters, flat)]
    reads = [row for name, (parameters, flat) in sets.items() for row in reading(name, parameters, flat)]
    return [
        Table(
            title="Clip and measure",
            columns=("gradients", "what", "torch", "ours", "ours / torch", "one read", "ours / one read"),
            rows=tuple(rows),
            note=(
                "torch: torch.nn.utils.clip_grad_norm_, which gives the total norm only. belt: a norm per parameter, "
                "the total, the finite check, the decision (clip.Norm) and its application. drop-in: "
                "gradbelt.clip_grad_norm_. Medians of 60 rounds, interleaved; ratios are medians within a round. one "
                "read: the same bytes through x.sum(). To reach: 0.6 with nothing to clip, 1.0 when clipping."
            ),
        ),
        Table(
            title="Read",
            columns=("gradients", "what", "time", "GB/s", "/ one read"),
            rows=tuple(reads),
            note=(
                "The gradients once through each. one read: x.sum() of all of them as one buffer, the bandwidth that "
                "this machine has for a read. torch: torch.nn.utils.get_total_norm, one number. norms: kernels.read, "
                "one for each parameter, by the kernel it chooses; on CUDA devices foreach's and Triton's are also "
                "given. closely: kernels.look(closely=True), with largest magnitude and share of zeros, which CPU "
                "training pays for at one step in ten. GB/s: bytes of the gradients over the time."
            ),
        ),
    ]


def gradients(shapes: list[tuple[int, ...]], device: torch.device) -> tuple[list[torch.nn.Parameter], Tensor]:
    """Parameters with gradients, and the one buffer that all these gradients lie in."""
    parameters = [torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
    # one buffer under all gradients, so that one read of it is one read of them, in the same state of the caches
    flat = torch.randn(sum(p.numel() for p in parameters), device=device)
    for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = piece.view(p.shape)
    return parameters, flat


def timed(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call, until the device is done with it."""

    def once() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return once


def reading(name: str, parameters: list[torch.nn.Parameter], flat: Tensor) -> list[tuple[str, ...]]:
    grads = [p.grad for p in parameters if p.grad is not None]
    tasks: dict[str, Callable[[], object]] = {
        "one read": flat.sum,
        "torch": lambda: torch.nn.utils.get_total_norm(grads),
        "norms": lambda: kernels.read(grads),
        "closely": lambda: kernels.look(grads, closely=True),
    }
    if flat.is_cuda:
        tasks["norms by foreach"] = lambda: torch.stack(foreach.norm_each(grads, torch.float32)).cpu()
        if importlib.util.find_spec("triton"):
            from gradbelt.kernels.triton import survey

            tasks["Triton, left on the device"] = lambda: survey(grads)
    seconds = interleaved({what: timed(call, flat.device) for what, call in tasks.items()})
    return [
        (
            name,
            what,
            milliseconds(median(mine)),
            f"{flat.nbytes / median(mine) / 1e9:.1f}",
            f"{ratio(mine, seconds['one read']):.2f}",
        )
        for what, mine in seconds.items()
    ]


def compare(name: str, parameters: list[torch.nn.Parameter], flat: Tensor) -> list[tuple[str, ...]]:
    grads = [p.grad for p in parameters if p.grad is not None]
    names = tuple(str(index) for index in range(len(grads)))
    tighter = Tightening(parameters)
    tasks: dict[str, Callable[[], object]] = {
        "read": flat.sum,
        "torch keep": lambda: torch.nn.utils.clip_grad_norm_(parameters, NEVER),
        "ours keep": lambda: ours(parameters, names, NEVER),
        "dropin keep": lambda: clip_grad_norm_(parameters, NEVER),
        "torch clip": lambda: torch.nn.utils.clip_grad_norm_(parameters, tighter()),
        "ours clip": lambda: ours(parameters, names, tighter()),
        "dropin clip": lambda: clip_grad_norm_(parameters, tighter()),
    }
    seconds = interleaved({what: timed(call, flat.device) for what, call in tasks.items()})
    read = seconds["read"]
    return [
        (
            name,
            f"{label}, {what}",
            milliseconds(median(seconds[f"torch {case}"])),
            milliseconds(median(mine := seconds[f"{key} {case}"])),
            f"{ratio(mine, seconds[f'torch {case}']):.2f}",
            milliseconds(median(read)),
            f"{ratio(mine, read):.2f}",
        )
        for case, what in (("keep", "nothing to clip"), ("clip", "clipping"))
        for key, label in (("ours", "belt"), ("dropin", "drop-in"))
    ]


class Tightening:
    """A threshold 1 % lower each time it is asked for, so that gradients which were just clipped are clipped again."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.limit = kernels.total(kernels.read([p.grad for p in parameters if p.grad is not None]))

    def __call__(self) -> float:
        self.limit *= 0.99
        return self.limit


def ours(parameters: list[torch.nn.Parameter], names: tuple[str, ...], max_norm: float) -> Measurement:
    """What the belt does with a step's gradients, as far as clipping goes."""
    grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    norms = kernels.read(grads)
    total = kernels.total(norms)
    bad = kernels.what_is_bad(grads, norms)
    seen = Measurement(
        call=0, step=0, optimizer=0, names=names, norm=norms, total=total,
        bad={names[index]: what for index, what in bad.items()},
    )  # fmt: skip
    action = Norm(max_norm).decide(seen, History())
    if isinstance(action, Scale):
        kernels.scale_(grads, action.coefficient)
    return seen
