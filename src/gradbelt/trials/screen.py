"""Which arms to prove first: those under which the script lives on, from a snapshot shortly before it broke.

A cure is shown from the first step to the last, as the user would run it. Where the script breaks late that takes long,
and a look at the few steps around the onset tells which arms are worth it. No arm is dropped for what it shows: what
can't save a run any more may have kept it from getting there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradbelt._types import WINDOW, Onset, RunRecord
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.errors import UnreadableRecord
from gradbelt.examine.reproduce import trace_from
from gradbelt.remedies import parse
from gradbelt.supervise.deeds import IDLE
from gradbelt.supervise.launch import Child, stop
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import Snapshot, TimeMachine

LEAD = 30  # steps before the last healthy one that an arm is put on: some must see a few batches first
PAST = 2  # times the way from there to the first bad step, and at least SOME more, that it must live on
SOME = 20
WORTH = 5  # times as long as that a run must have been before it broke


def lead(found: Onset) -> int | None:
    """The step after which a snapshot is wanted; None where the script breaks too early for it to be worth it."""
    first, bad = trace_from(found), found.bad_step
    if first is None or bad is None:
        return None
    step = first - 1 - LEAD
    return step if bad >= WORTH * (_end(step, bad) - step) else None


def screened(
    arms: Sequence[str], found: Onset, machine: TimeMachine, plan: Plan, *, jobs: int, deadline: float
) -> list[str]:
    """The arms, those under which the script lives on past its onset before the others.

    They are looked at in their order until as many as run at a time have lived. Where there is no snapshot nothing is
    changed.

    Args:
        found: When the script broke. plan: The trials' own; where it is from does not matter here. deadline:
        time.monotonic() after which no further arm is looked at.
    """
    step, bad = lead(found), found.bad_step
    there = None if step is None else machine.before(step + 1)
    if step is None or bad is None or there is None or there.step != step:
        return list(arms)
    try:
        history = load_run(Path(machine.plan.folder))
    except UnreadableRecord:
        return list(arms)
    plan = replace(plan, horizon=_end(step, bad), trace_step=None)
    lived = _looks(deque(arm for arm in arms if is_midway(arm)), there, plan, history, jobs, deadline)
    return sorted(arms, key=lambda arm: not lived.get(arm, False))


def is_midway(arm: str) -> bool:
    """Whether all of an arm can be put on in the middle of a run, and then does what it would have done from its start.

    >>> is_midway("clip_norm=1.0+skip_step"), is_midway("he_init+clip_norm=1.0"), is_midway("")
    (True, False, False)
    """
    return bool(arm) and all(getattr(remedy, "midway", False) for remedy in parse(arm))


def _end(step: int, bad: int) -> int:
    return bad + max(SOME, PAST * (bad - step))


def _looks(
    waiting: deque[str], there: Snapshot, plan: Plan, history: RunRecord, jobs: int, deadline: float
) -> dict[str, bool]:
    """Arm -> whether the script lived on under it; nothing of those that were not looked at."""
    lived: dict[str, bool] = {}
    running: dict[str, tuple[Child, Plan]] = {}
    try:
        while (waiting or running) and sum(lived.values()) < jobs and time.monotonic() < deadline:
            while waiting and len(running) < jobs:
                arm = waiting.popleft()
                mine = replace(plan, folder=str(Path(plan.folder) / "screen" / arm), remedies=(*plan.remedies, arm))
                child = there.wake(mine)
                if child is not None:
                    running[arm] = child, mine
            for arm, (child, mine) in list(running.items()):
                if child.poll() is not None:
                    del running[arm]
                    lived[arm] = lives(history, there.step, Path(mine.folder))
            time.sleep(0.01)
    finally:
        for child, _ in running.values():
            stop(child)
    return lived


def lives(history: RunRecord, step: int, folder: Path) -> bool:
    """Whether what went on after `step` is as healthy as what came before it."""
    try:
        after = load_run(folder)
    except UnreadableRecord:
        return False
    if after.meta.get("exit_code") != 0 or any(event.kind == IDLE for event in after.events):
        return False
    before = tuple(row for row in history.steps if step - WINDOW < row.step <= step)
    return bool(after.steps) and not onset(replace(after, steps=(*before, *after.steps))).exploded
