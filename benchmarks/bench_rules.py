"""What every clipping rule makes of a heavy-tailed and of a clean regression: losses, not times.

    python -m benchmarks rules

A small ReLU network learns a smooth function of ten numbers, from batches of 64. In the heavy-tailed task one target in
a hundred is off by a normal error of 100; the loss told is on clean data in both. Nothing is tuned per task: each rule
comes as it is made, `none` and fixed norms beside them.

A threshold below every norm is a learning rate by another name: with Adam it is nothing else. So each rule is shown at
three learning rates, and compared at the best of its own.
"""

from __future__ import annotations

import math
import statistics
import warnings

import torch

from benchmarks.table import Table
from gradbelt import clip, fasten
from gradbelt.errors import BuckleWarning

STEPS = 500
SEEDS = (0, 1, 2)
FIXED = ("none", "norm:0.1", "norm:0.3", "norm:1", "norm:3", "norm:10")
RULES = (
    *FIXED, "auto", "ladder", "ema", "ema:1.5", "zscore", "zscore:2.5,inf", "median", "percentile:10", "percentile:90",
    "each:1", "adagc", "agc", "value:0.1",
)  # fmt: skip
OPTIMIZERS = {
    "SGD": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "Adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
}
RATES = {"SGD": (0.025, 0.05, 0.1), "Adam": (3e-3, 1e-2, 3e-2)}
TASKS = [(kind, heavy) for kind in OPTIMIZERS for heavy in (True, False)]


def run(device: str) -> list[Table]:
    del device  # the task is too small for any but a CPU
    ends = {
        (rule, kind, heavy, lr): mean([train(rule, kind, heavy, lr, seed) for seed in SEEDS])
        for rule in RULES
        for kind, heavy in TASKS
        for lr in RATES[kind]
    }
    titles = tuple(f"{kind} {'heavy' if heavy else 'clean'}" for kind, heavy in TASKS)
    return [
        Table(
            title="Loss on clean data, each rule at the best of three learning rates",
            columns=("rule", *titles),
            rows=tuple((rule, *(best(ends, rule, *task) for task in TASKS)) for rule in RULES),
            note=f"Geometric mean of {len(SEEDS)} seeds after {STEPS} steps, the learning rate, and how many times the "
            "loss of the best fixed norm that is.",
        ),
        *(
            Table(
                title=f"The same at each learning rate, {title}",
                columns=("rule", *(f"lr {lr:g}" for lr in RATES[task[0]])),
                rows=tuple((rule, *(f"{ends[(rule, *task, lr)]:.3g}" for lr in RATES[task[0]])) for rule in RULES),
                note="'zscore:2.5,inf' is without its cap. Adam, SGD with a momentum of 0.9.",
            )
            for title, task in zip(titles, TASKS, strict=True)
        ),
    ]


def best(ends: dict[tuple[str, str, bool, float], float], rule: str, kind: str, heavy: bool) -> str:
    """The loss at the rule's best learning rate, beside the best that a fixed norm reached."""
    lr = min(RATES[kind], key=lambda lr: ends[rule, kind, heavy, lr])
    fixed = min(ends[other, kind, heavy, lr] for other in FIXED for lr in RATES[kind])
    return f"{ends[rule, kind, heavy, lr]:.3g} ({lr:g}) {ends[rule, kind, heavy, lr] / fixed:.2f}x"


def mean(losses: list[float]) -> float:
    """Geometric; inf where one run was lost."""
    return statistics.geometric_mean(losses) if all(map(math.isfinite, losses)) else math.inf


def target(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x[:, :1] + x[:, 1:2]) + 0.5 * x[:, 2:3]


def train(rule: str, kind: str, heavy: bool, lr: float, seed: int) -> float:
    """The loss on clean data at the end; inf where it is no number."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = OPTIMIZERS[kind](model.parameters(), lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BuckleWarning)  # that a threshold always acts, or never, is the point here
        belt = fasten(model, optimizer, clip.from_string(rule))
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
    return end if math.isfinite(end) else math.inf
