"""What running a script again up to its onset costs, and what following a step operation by operation does."""

from __future__ import annotations

import itertools
import resource
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
ROUNDS = 2


def run(device: str) -> list[Table]:
    if device != "cpu":
        return []  # snapshots are of processes that use no other device
    return [
        Table(
            title="Run again up to the onset",
            columns=("model", "bare, to the onset", "run again", "again / bare", "a step", "followed", "times"),
            rows=tuple(row(kind) for kind in KINDS),
            note=(
                "Processor seconds of all processes, one thread each, start-up and imports within; the best of "
                f"{ROUNDS}. bare: python running the script, which breaks at its last step but one. run again: "
                "`reproduce`, with its snapshots, the traced steps and what comes after. A step: of the watched script "
                "and of one that is followed from its first step to its last, over the same steps, start-up taken off. "
                "To reach: 1.3 for again / bare, 5 for a step."
            ),
        )
    ]


def row(kind: str) -> tuple[str, ...]:
    name, steps, few = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(script=SCRIPT, argv=(kind, str(steps)), module=True, folder=f"{folder}/run", seed=0, quiet=True)
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

        start = best(lambda: child(1, follow=False))
        plain = (best(lambda: child(1 + few, follow=False)) - start) / few
        followed_start = best(lambda: child(1, follow=True))
        followed = (best(lambda: child(1 + few, follow=True)) - followed_start) / few
        alone, repeated = best(bare), best(again)
    return (
        name,
        f"{alone:.2f} s",
        f"{repeated:.2f} s",
        f"{repeated / alone:.2f}",
        f"{plain * 1e3:.2f} ms",
        f"{followed * 1e3:.2f} ms",
        f"{followed / plain:.1f}",
    )


def best(task: Callable[[], object]) -> float:
    """The fewest processor seconds of its children, this process included, that it took."""
    return min(seconds(task) for _ in range(ROUNDS))


def seconds(task: Callable[[], object]) -> float:
    before = spent()
    task()
    return spent() - before


def spent() -> float:
    """Processor seconds of this process and of all its children that have ended, theirs included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
