"""Measuring and clipping gradients: ours against torch.nn.utils.clip_grad_norm_, same tensors, same process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.table import Table, interleaved, median, milliseconds, ratio
from gradbelt import kernels
from gradbelt._types import History, Measurement, Scale
from gradbelt.clip import Norm
from gradbelt.clip.dropin import clip_grad_norm_


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
    rows = [row for name, shapes in SETS.items() for row in compare(name, shapes, torch.device(device))]
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
        )
    ]


def compare(name: str, shapes: list[tuple[int, ...]], device: torch.device) -> list[tuple[str, ...]]:
    parameters = [torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
    # one buffer under all gradients, so that one read of it is one read of them, in the same state of the caches
    flat = torch.randn(sum(p.numel() for p in parameters), device=device)
    for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = piece.view(p.shape)
    grads = [p.grad for p in parameters if p.grad is not None]
    names = tuple(str(index) for index in range(len(grads)))
    tighter = Tightening(parameters)

    def timed(call: Callable[[], object]) -> Callable[[], object]:
        def once() -> None:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return once

    tasks = {
        "read": timed(flat.sum),
        "torch keep": timed(lambda: torch.nn.utils.clip_grad_norm_(parameters, NEVER)),
        "ours keep": timed(lambda: ours(parameters, names, NEVER)),
        "dropin keep": timed(lambda: clip_grad_norm_(parameters, NEVER)),
        "torch clip": timed(lambda: torch.nn.utils.clip_grad_norm_(parameters, tighter())),
        "ours clip": timed(lambda: ours(parameters, names, tighter())),
        "dropin clip": timed(lambda: clip_grad_norm_(parameters, tighter())),
    }
    seconds = interleaved(tasks)
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
