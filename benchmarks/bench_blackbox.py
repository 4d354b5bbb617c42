"""Writing a step down: microseconds and bytes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.table import Table, median
from gradbelt._types import StepRecord
from gradbelt.blackbox import Writer

TIGHT = 4000  # steps as fast as they come: one commit every 20 ms is shared by many
PACED = 100  # steps 25 ms apart: each pays for its own commit
HOUR = 36_000  # steps, at ten a second


def run(device: str) -> list[Table]:
    del device  # the black box never sees one
    return [
        Table(
            title="Black box",
            columns=("parameters", "us a step, tight", "us a step, 25 ms apart", "99 %", "bytes a step", "MB an hour"),
            rows=tuple(written(num_parameters) for num_parameters in (10, 100, 400)),
            note=(
                "Writer.step with one loss; weights, peaks and zeros in every tenth row. Tight: mean of "
                f"{TIGHT} steps, with commits. 25 ms apart: median and 99 % of {PACED} steps that commit each. MB an "
                "hour: at 10 steps a second, from the size of the closed file. To reach, for 100 parameters: 100 us a "
                "step, 500 MB an hour."
            ),
        )
    ]


def written(num_parameters: int) -> tuple[str, ...]:
    rows = [row(call, num_parameters) for call in range(TIGHT)]
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder) / "tight", {}, warn=print)
        start = time.perf_counter()
        for each in rows:
            writer.step(each)
        tight = (time.perf_counter() - start) / TIGHT
        writer.close()
        size = sum(path.stat().st_size for path in (Path(folder) / "tight").iterdir()) / TIGHT
        writer = Writer(Path(folder) / "paced", {}, warn=print)
        paced = []
        for each in rows[:PACED]:
            time.sleep(0.025)
            start = time.perf_counter()
            writer.step(each)
            paced.append(time.perf_counter() - start)
        writer.close()
    late = sorted(paced)[int(0.99 * len(paced))]
    return (
        str(num_parameters),
        *(f"{seconds * 1e6:.0f}" for seconds in (tight, median(paced), late)),
        f"{size:.0f}",
        f"{size * HOUR / 1e6:.0f}",
    )


NAMES = {count: tuple(f"blocks.{index}.weight" for index in range(count)) for count in (10, 100, 400)}
RANDOM = np.random.default_rng(0)


def row(call: int, num_parameters: int) -> StepRecord:
    norm = RANDOM.random(num_parameters, dtype=np.float32)
    return StepRecord(
        call=call, step=call, optimizer=0, time=0.1 * call, lr=1e-3, total=float(norm.sum()), total_after=1.0,
        action="scale", losses={"train.py:61": float(norm[0])}, names=NAMES[num_parameters], norm=norm,
        weight=norm + 1 if call % 10 == 0 else None, peak=norm / 2 if call % 10 == 0 else None,
        zeros=norm / 3 if call % 10 == 0 else None,
    )  # fmt: skip
