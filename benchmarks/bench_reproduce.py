"""What running a script again up to its onset costs, and what following a step operation by operation does."""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.table import Table
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.examine.reproduce import reproduce
from gradbelt.supervise.launch import launch
from gradbelt.supervise.plan import Plan

SCRIPT = "benchmarks.explodes"
KINDS = {
    "gpt": ("GPT, 14 M", 14, 2),
    "lstm": ("LSTM, 0.9 M", 60, 10),
    "small": ("MLP, 64 wide", 3000, 300),
}  # name -> what it is, steps of the run, steps that are followed to see what one costs
ROUNDS = 3


def run(device: str) -> list[Table]:
    if device != "cpu":
        return []  # snapshots are of processes that use no other device
    return [
        Table(
            title="Run again up to the onset",
            columns=("model", "bare, to the onset", "run again", "again / bare", "a step", "followed", "times"),
            rows=tuple(row(kind) for kind in KINDS),
            note=(
                "Processor seconds of all processes, one thread each, start-up and imports within, bytecode cached; "
                f"taken in turns, the median of {ROUNDS}. bare: python running the script, which breaks at its last "
                "step but one. run again: `reproduce`, with its snapshots, the traced steps and what comes after, all "
                "that is spent beyond the watched run. A step: of the watched script "
                "and of one that is followed from its first step to its last, over the same steps, start-up taken off. "
                "To reach: 1.3 for again / bare, 5 for a step."
            ),
        )
    ]


def row(kind: str) -> tuple[str, ...]:
    name, steps, few = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(script=SCRIPT, argv=(kind, str(steps)), module=True, folder=f"{folder}/run", seed=0, quiet=True)
        # without bytecode, what is measured is the compiler, at every start
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        launch(plan).wait()
        record = load_run(Path(plan.folder))
        found = onset(record)
        assert found.bad_step == steps - 2

        def bare() -> None:
            subprocess.run([sys.executable, "-m", SCRIPT, kind, str(steps)], check=True)

        numbers = itertools.count()

        def again() -> None:
            where = replace(plan, folder=f"{folder}/again{next(numbers)}")
            evidence = reproduce(record, found, where, deadline=time.monotonic() + 600)
            assert evidence.reproduced
            assert evidence.origin is not None
            assert evidence.origin.op == "log"
            assert Path(where.folder, "traced").exists()

        def child(horizon: int, *, follow: bool) -> None:
            where = replace(plan, folder=f"{folder}/child{next(numbers)}", horizon=horizon)
            launch(replace(where, trace_step=horizon - 1, trace_from=0) if follow else where).wait()

        start, more, followed_start, followed_more, alone, repeated = in_turns(
            lambda: child(1, follow=False),
            lambda: child(1 + few, follow=False),
            lambda: child(1, follow=True),
            lambda: child(1 + few, follow=True),
            bare,
            again,
        )
        plain, followed = (more - start) / few, (followed_more - followed_start) / few
    return (
        name,
        f"{alone:.2f} s",
        f"{repeated:.2f} s",
        f"{repeated / alone:.2f}",
        f"{plain * 1e3:.2f} ms",
        f"{followed * 1e3:.2f} ms",
        f"{followed / plain:.1f}",
    )


def in_turns(*tasks: Callable[[], object]) -> list[float]:
    """Median processor seconds of each task, this process and its children: whatever else runs meets all alike."""
    rounds = [[seconds(task) for task in tasks] for _ in range(ROUNDS)]
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def seconds(task: Callable[[], object]) -> float:
    before = spent()
    task()
    return spent() - before


def spent() -> float:
    """Processor seconds of this process and of all its children that have ended, theirs included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
