"""What every clipping rule makes of a heavy-tailed and of a clean regression: losses, not times.

    python -m benchmarks rules

A small ReLU network learns a smooth function of ten numbers, from batches of 64. In the heavy-tailed task one target in
a hundred is off by a normal error of 100; the loss told is on clean data in both. Nothing is tuned per task: each rule
comes as it is made, `none` and two fixed norms beside them.
"""

from __future__ import annotations

import math
import statistics

import torch

from benchmarks.table import Table
from gradbelt import clip, fasten

STEPS = 500
SEEDS = (0, 1, 2)
RULES = (
    "none", "auto", "norm:1", "norm:10", "ladder", "ema", "ema:1.5", "zscore", "zscore:2.5,inf", "median",
    "percentile:10", "percentile:90", "each:1", "adagc", "agc", "value:0.1",
)  # fmt: skip
OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
}


def run(device: str) -> list[Table]:
    del device  # the task is too small for any but a CPU
    rows = []
    for rule in RULES:
        cells = [rule]
        for kind in OPTIMIZERS:
            for heavy in (True, False):
                ends, rates = zip(*(train(rule, kind, heavy, seed) for seed in SEEDS), strict=True)
                cells.append(f"{min(ends):.3g} {statistics.median(ends):.3g} {max(ends):.3g} ({max(rates):.0%})")
        rows.append(tuple(cells))
    return [
        Table(
            title="Loss on clean data by clipping rule",
            columns=("rule", "SGD heavy", "SGD clean", "Adam heavy", "Adam clean"),
            rows=tuple(rows),
            note=f"Smallest, middle and largest of {len(SEEDS)} seeds after {STEPS} steps; in brackets the largest "
            "share of steps clipped or left out. SGD: lr 0.05, momentum 0.9; Adam: lr 3e-3. 'zscore:2.5,inf' is "
            "without its cap.",
        )
    ]


def target(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x[:, :1] + x[:, 1:2]) + 0.5 * x[:, 2:3]


def train(rule: str, kind: str, heavy: bool, seed: int) -> tuple[float, float]:
    """The loss on clean data at the end, inf where it is none, and the share of steps clipped or left out."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = OPTIMIZERS[kind](model.parameters())
    actions: list[str] = []
    belt = fasten(model, optimizer, clip.from_string(rule), write=lambda row: actions.append(row.action))
    for _ in range(STEPS):
        x = torch.randn(64, 10)
        y = target(x)
        if heavy:
            y = y + 100.0 * torch.randn(64, 1) * (torch.rand(64, 1) < 0.01)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        belt.see(loss).backward()
        optimizer.step()
    x = torch.randn(4096, 10)
    with torch.no_grad():
        end = float((model(x) - target(x)).square().mean())
    return end if math.isfinite(end) else math.inf, sum(action != "keep" for action in actions) / STEPS
