"""A fused optimizer's step with clipping: torch's clip_grad_norm_ before it, against the belt's inside it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

import gradbelt
from benchmarks.bench_clip import SETS
from benchmarks.table import Table, interleaved, median, milliseconds, ratio

NEVER = 1e9
HALF = 0.5  # of the norm: every step is clipped, and none so hard that the belt reads the weights as after a jump


class Stepping:
    """Parameters, a fused AdamW and gradients, which a step leaves clipped and `refill` brings back."""

    def __init__(self, shapes: list[tuple[int, ...]], device: torch.device, *, scaled: bool) -> None:
        self.parameters = [torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
        self.gradients = [torch.randn(shape, device=device) for shape in shapes]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=10**9, enabled=scaled)
        self.limit: float | None = None
        for p in self.parameters:
            p.grad = torch.zeros_like(p)

    def refill(self) -> None:
        torch._foreach_copy_([p.grad for p in self.parameters if p.grad is not None], self.gradients)
        self.scaler.scale(torch.ones((), device=self.gradients[0].device))

    def __call__(self) -> None:
        if self.limit is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.gradients[0].is_cuda:
            torch.cuda.synchronize()


def run(device: str) -> list[Table]:
    rows = [
        row
        for name, shapes in list(SETS.items())[:2]
        for scaled in (False, True)
        for row in compare(name, shapes, torch.device(device), scaled)
    ]
    return [
        Table(
            title="Clip inside a fused step",
            columns=("gradients", "step", "bare", "torch", "belt", "belt / torch", "no wait", "no wait / torch"),
            rows=tuple(rows),
            note=(
                "fused AdamW, alone and under a GradScaler (AMP; gradients are float32 in both). "
                "bare: the step alone. torch: [unscale_,] clip_grad_norm_, step. belt: fasten, which also keeps a norm "
                "per parameter, judges and records. no wait: the same with wait=False. Medians of 20 rounds, "
                "interleaved; ratios are medians within a round."
            ),
        )
    ]


def compare(name: str, shapes: list[tuple[int, ...]], device: torch.device, scaled: bool) -> list[tuple[str, ...]]:
    rows = []
    size = math.sqrt(sum(math.prod(shape) for shape in shapes))  # about the norm of so many normal numbers
    for what, limit in (("nothing to clip", NEVER), ("clipping", HALF * size)):
        tasks: dict[str, Stepping] = {
            kind: Stepping(shapes, device, scaled=scaled) for kind in ("bare", "torch", "belt", "no wait")
        }
        tasks["torch"].limit = limit
        for kind, wait in (("belt", True), ("no wait", False)):
            gradbelt.fasten(None, tasks[kind].optimizer, clip=limit, wait=wait)
        calls: dict[str, Callable[[], object]] = dict(tasks)
        seconds = interleaved(calls, rounds=20, before=lambda kind, tasks=tasks: tasks[kind].refill())
        torch_, mine, late = seconds["torch"], seconds["belt"], seconds["no wait"]
        rows.append(
            (
                name,
                f"{'AMP' if scaled else 'fused'}, {what}",
                milliseconds(median(seconds["bare"])),
                milliseconds(median(torch_)),
                milliseconds(median(mine)),
                f"{ratio(mine, torch_):.2f}",
                milliseconds(median(late)),
                f"{ratio(late, torch_):.2f}",
            )
        )
    return rows
