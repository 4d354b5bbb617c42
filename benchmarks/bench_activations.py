"""What looking at activations adds to a real step: over a run, and at the steps that are sampled."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

import gradbelt
from benchmarks.bench_watch import Gpt, Lstm, Training
from benchmarks.table import Table, milliseconds
from gradbelt.belt import forward

TURNS = {"MLP, 1 k": (10, 150), "LSTM, 0.9 M": (5, 20), "GPT, 14 M": (2, 8)}
"""How often each copy of a model has its turn, and how many steps that is."""


class Mlp:
    """Two hidden layers of 32 on 64 rows of 8: a step so short that Python is most of it."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)).to(
            device
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        self.x, self.y = torch.randn(64, 8, device=device), torch.zeros(64, dtype=torch.long, device=device)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()


def run(device: str) -> list[Table]:
    on = torch.device(device)
    rows = [
        *compare("LSTM, 0.9 M", lambda: Training(Lstm, on)),
        *compare("GPT, 14 M", lambda: Training(Gpt, on)),
        *compare("MLP, 1 k", lambda: Mlp(on)),
    ]
    return [
        Table(
            title="Looking at activations",
            columns=(
                "model",
                "asked",
                "bare step",
                "belt, no looks",
                "belt, looks",
                "looks / no looks",
                "sampled",
                "own account",
            ),
            rows=tuple(rows),
            note=(
                "Three copies of a model: bare, with fasten(clip=None, activations=0), and with activations "
                "as asked; each makes some steps in a row, in turns. Times are of the processor, medians over the "
                "passages of the mean step, the ratio is the median of the ratios within a turn: looks are "
                "rare, so their share shows in sums and not in single steps. Sampled: steps that were "
                "looked at, of all. Own account: the time spent looking, by gradbelt's own clock, over all "
                "the time of its passages; a hundredth of a second of it is lent at the start, a twentieth by and "
                "by. inf: at every step. To reach: 1.03 at 0.02."
            ),
        ),
        short(on),
    ]


def short(device: torch.device, lengths: Sequence[float] = (1.0, 2.0, 5.0)) -> Table:
    """What looking takes of runs that are over soon, from the first step on; all of it, belt and gradbelt's clock, by
    the processor's time."""
    rows = []
    with mock.patch.object(forward.time, "perf_counter", time.process_time):
        for name, make in (
            ("MLP, 1 k", lambda: Mlp(device)), ("LSTM, 0.9 M", lambda: Training(Lstm, device)),
            ("GPT, 14 M", lambda: Training(Gpt, device)),
        ):  # fmt: skip
            task, seen = make(), []
            belt = gradbelt.fasten(
                task.model, task.optimizer, clip=None, guard=False, activations=0.02,
                write=lambda row, seen=seen: seen.append(bool(row.activations)),
            )  # fmt: skip
            began, took = time.process_time(), []
            for length in lengths:
                while time.process_time() - began < length:
                    task()
                spent = belt.forward.spent
                took.append(f"{spent / (time.process_time() - began):.2%} ({sum(seen)} of {len(seen)})")
            belt.release()
            rows.append((name, *took))
    return Table(
        title="Short runs",
        columns=("model", *(f"{length:g} s" for length in lengths)),
        rows=tuple(rows),
        note="Share of a run's time that looking took by then, by gradbelt's own account, and the steps that were "
        "looked at. To reach: 3 %.",
    )


def compare(name: str, make: Callable[[], Any]) -> list[tuple[str, ...]]:
    rows = []
    turns, passage = TURNS[name]
    for share in (0.02, math.inf):
        tasks = {"bare": make(), "none": make(), "looks": make()}
        seen: list[bool] = []
        belts = [
            gradbelt.fasten(tasks["none"].model, tasks["none"].optimizer, clip=None, guard=False, activations=0.0),
            gradbelt.fasten(
                tasks["looks"].model, tasks["looks"].optimizer, clip=None, guard=False, activations=share,
                write=lambda row, seen=seen: seen.append(bool(row.activations)),
            ),
        ]  # fmt: skip
        for each in tasks.values():
            for _ in range(3):
                each()
        seconds: dict[str, list[float]] = {task: [] for task in tasks}
        for turn in range(turns):
            names = list(tasks)
            for task in names[turn % 3 :] + names[: turn % 3]:
                began = time.process_time()
                for _ in range(passage):
                    tasks[task]()
                seconds[task].append(time.process_time() - began)
        spent = belts[1].forward.spent
        for belt in belts:
            belt.release()
        step = {task: statistics.median(taken) / passage for task, taken in seconds.items()}
        ratios = [a / b for a, b in zip(seconds["looks"], seconds["none"], strict=True)]
        rows.append(
            (
                name, str(share), milliseconds(step["bare"]), milliseconds(step["none"]), milliseconds(step["looks"]),
                f"{statistics.median(ratios):.3f}", f"{sum(seen)} of {len(seen)}",
                f"{100 * spent / sum(seconds['looks']):.2f} %",
            )
        )  # fmt: skip
    return rows
