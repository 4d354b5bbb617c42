"""What all detectors together add to a step: derive, judge and learn, beside the forward, backward and update of it."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.bench_watch import Gpt, Lstm, Training
from benchmarks.table import Table, median
from gradbelt._types import Course, History, Keep, Measurement
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.judge import judge
from gradbelt.belt.memory import EAGER, EVERY

STEPS = 600
STEADY = 250  # steps after which every window is full


def run(device: str) -> list[Table]:
    real = {name: seconds_of(kind, device) for kind, name in ((Lstm, "LSTM, 50 x 50"), (Gpt, "GPT, 14 M"))}
    rows = []
    for count in (10, 100, 500):
        taken = timed(measurements(count))
        all_of_it = median([sum(step) for step in zip(*taken.values(), strict=True)])
        rows.append(
            (
                str(count),
                *(f"{median(seconds) * 1e6:.0f} us" for seconds in taken.values()),
                f"{all_of_it * 1e6:.0f} us",
                *(f"{all_of_it / step:.2%}" for step in real.values()),
            )
        )
    titles = tuple(f"share of {name} ({seconds * 1e3:.0f} ms)" for name, seconds in real.items())
    return [
        Table(
            title="All detectors on a step",
            columns=("parameters", "derive", "judge", "learn", "together", *titles),
            rows=tuple(rows),
            note=(
                f"Median of a healthy step after {STEADY}, weights sampled at every tenth; the course of the loss is "
                "counted as derive. The models have 11 and 100 parameters; their bare steps are those of `watch`, in "
                "the same process. Processor time, which other work "
                "on the machine changes little. To reach: 1 % of a real step."
            ),
        )
    ]


def measurements(count: int) -> list[Measurement]:
    """Steps of a healthy run: norms and losses with noise, a slow decline, weights sampled as the belt does."""
    chance = np.random.default_rng(0)
    names = tuple(f"blocks.{i // 8}.part{i % 8}.weight" for i in range(count))
    steps = []
    for i in range(STEPS):
        norm = chance.lognormal(-1.0, 0.3, count)
        sampled = i < EAGER or i % EVERY == 0
        weight = np.full(count, 5.0 + 0.001 * i, np.float32) if sampled else None
        steps.append(
            Measurement(
                call=i, step=i, optimizer=0, names=names, norm=norm, total=float(np.linalg.norm(norm)), lr=1e-3,
                losses={"train.py:1": 2.0 / (1 + 0.01 * i) + 0.1 * float(chance.random())}, weight=weight,
                peak=None if weight is None else norm.astype(np.float32),
                zeros=None if weight is None else np.zeros(count, np.float32),
            )
        )  # fmt: skip
    return steps


def timed(steps: Sequence[Measurement]) -> dict[str, list[float]]:
    """Seconds of each stage at each step."""
    history, course = History(), Course()
    taken: dict[str, list[float]] = {"derive": [], "judge": [], "learn": []}
    gc.disable()
    for seen in steps:
        marks = [time.process_time()]
        course = advance(course, seen)
        signals = derive(seen, history, course)
        marks.append(time.process_time())
        judge(signals, history)
        marks.append(time.process_time())
        history = learn(history, seen, Keep(), seen.total)
        marks.append(time.process_time())
        for seconds, (before, after) in zip(taken.values(), itertools.pairwise(marks), strict=True):
            seconds.append(after - before)
    gc.enable()
    return {name: seconds[STEADY:] for name, seconds in taken.items()}


def seconds_of(kind: type[Lstm] | type[Gpt], device: str, steps: int = 6) -> float:
    """A bare step, fastest of a few: the smallest that a share can be taken of."""
    training, taken = Training(kind, torch.device(device)), []
    for _ in range(steps):
        start = time.process_time()
        training()
        taken.append(time.process_time() - start)
    return min(taken)
