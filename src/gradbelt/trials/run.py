"""Runs arms in parallel child processes until the budget is spent or nothing is left to try."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gradbelt._types import RECENT, Origin, Outcome, RunRecord
from gradbelt.blackbox import load_run
from gradbelt.causes import Case
from gradbelt.errors import UnreadableRecord
from gradbelt.remedies import parse
from gradbelt.remedies.lower_lr import LowerLr
from gradbelt.supervise.deeds import IDLE
from gradbelt.supervise.launch import Child, last_words, stop
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.prospect import LOST
from gradbelt.supervise.timemachine import TimeMachine
from gradbelt.trials.arms import CONTROL, first_arms, more_arms
from gradbelt.trials.executor import Executor, executor, room
from gradbelt.trials.judge import Metric, judge_trial
from gradbelt.trials.screen import screened
from gradbelt.trials.standing import FIXED, good, looser, par, pressing, worth

PATIENCE = 4.0  # times the watched run's own duration after which a trial is given up
SCREENING = 4  # of the budget, at most a share of 1 in so many goes into looking at arms from a snapshot
ARMS = 12  # trials that a budget should have room for: beyond that, runs are cut short
AHEAD = 3.0  # a run that is cut short still goes this many times as far as the first bad step
ENTIRE = 3  # the control is not cut short where it takes at most a share of 1 in so many of the budget
SEEDS = 2  # at which a cure is shown once more
CHEAP = 4  # only where that takes at most a share of 1 in so many of the budget
WHOLE = 1.5  # times what the watched run took, kept for running a cure to its end where trials are cut short


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long, how many at a time, and where."""

    seconds: float
    jobs: int = 0  # 0: as many as there is room for
    executor: str = "local"  # one of EXECUTORS


@dataclass(slots=True)
class _Running:
    remedy: str
    child: Child
    plan: Plan
    began: float
    deadline: float


def try_remedies(
    case: Case,
    plan: Plan,
    *,
    budget: Budget,
    watched: float,
    machine: TimeMachine | None = None,
    metric: Metric | None = None,
    progress: Callable[[tuple[Outcome, ...], int, tuple[str, ...]], None] = lambda *_: None,
) -> tuple[Outcome, ...]:
    """The outcomes of the arms, the control's first: all that fitted into the budget, until it is clear what cures.

    Args:
        case: What is known; decides the arms and their order.
        plan: How the watched run was started; its `folder` is where the trials' folders go. Remedies it has stay on.
        watched: Seconds that the watched run took.
        machine: With a snapshot shortly before a late onset, arms are looked at there first, and run from the start in
            the order that this suggests; it is closed then.
        progress: Called with the outcomes so far, the number of arms waiting and the names of those running.

    A KeyboardInterrupt ends the trials and keeps what is known.
    """
    budget = replace(budget, jobs=budget.jobs or room(budget.executor))
    began = time.monotonic()
    end = began + budget.seconds
    limit = max(20.0, PATIENCE * watched)
    broke_at = _place(case.evidence.origin)
    plan = replace(
        plan, horizon=horizon(case, budget, watched), settled=settled(case.record), quiet=True, trace_step=None,
        origin=broke_at,
    )  # fmt: skip
    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": _threads(budget.jobs)}
    arms = first_arms(case)
    if machine is not None and case.evidence.reproduced:
        until = time.monotonic() + budget.seconds / SCREENING
        control, *others = arms
        arms = [control, *screened(others, case.onset, machine, plan, jobs=budget.jobs, deadline=until)]
    if machine is not None:
        machine.close()
    waiting = deque(arms)
    seen = set(waiting)
    outcomes: dict[str, Outcome] = {}
    running: list[_Running] = []

    def shown() -> None:
        progress(tuple(outcomes.values()), len(waiting), tuple(trial.remedy for trial in running))

    def known() -> Case:
        return replace(case, outcomes=tuple(outcomes.values()))

    where = executor(budget.executor, plan, environment)
    try:
        while waiting or running:
            if not waiting and len(running) < budget.jobs:
                more = [arm for arm in more_arms(case, tuple(outcomes.values())) if arm not in seen]
                waiting.extend(worth(known(), more, metric))
                last = looser(known(), metric)
                if not waiting and not running and last is not None and last not in seen:
                    waiting.append(last)
                seen.update(waiting)
            spared = WHOLE * watched if plan.horizon is not None and good(known(), metric) else 0.0
            while waiting and len(running) < budget.jobs and time.monotonic() < end - spared:
                arm, mine = waiting.popleft(), replace(plan, par=par(known(), plan.horizon or case.record.num_steps))
                if arm == CONTROL and watched <= budget.seconds / ENTIRE:
                    mine = replace(mine, horizon=None)  # one that came back half-way may have failed by the end
                running.append(_start(arm, mine, min(time.monotonic() + limit, end + 5), where))
                shown()
            finished = [t for t in running if t.child.poll() is not None or time.monotonic() > t.deadline]
            for trial in finished:
                running.remove(trial)
                outcomes[trial.remedy] = replace(_finish(trial, case, metric), ended=time.monotonic() - began)
                shown()
            if finished:
                more = [arm for arm in more_arms(case, tuple(outcomes.values())) if arm not in seen]
                further = pressing(known(), more)
                seen.update(further)
                waiting = deque(worth(known(), [*further, *waiting], metric))
                for trial in [t for t in running if not worth(known(), [t.remedy], metric)]:
                    stop(trial.child)
                    running.remove(trial)
            if not running and time.monotonic() >= end - spared:
                break
            time.sleep(0.02)
        cures = good(known(), metric)
        if plan.horizon is not None and cures and time.monotonic() < end:
            outcomes[cures[0].remedy] = whole(cures[0], case, plan, where, end, metric)
        for outcome in at_other_seeds(known(), plan, budget, where, end, metric):
            outcomes[outcome.remedy] = outcome
    except KeyboardInterrupt:
        pass
    finally:
        for trial in running:
            stop(trial.child)
        where.close()
    return tuple(sorted(outcomes.values(), key=lambda outcome: outcome.remedy != CONTROL))


def whole(cure: Outcome, case: Case, plan: Plan, where: Executor, end: float, metric: Metric | None) -> Outcome:
    """A cure that was shown on runs that were cut short, run to its end: what comes after the training, an evaluation
    say, has its part in the edit. Its record takes the other's place; the cut one stays where time runs out."""
    at = Path(plan.folder)
    trial = _start(cure.remedy, replace(plan, folder=str(at / "whole"), horizon=None, par=None), end, where)
    try:
        while trial.child.poll() is None and time.monotonic() < trial.deadline:
            time.sleep(0.02)
    finally:
        late = trial.child.poll() is None
        found = _finish(trial, case, metric)
    if late or not found.steps:
        return cure
    shutil.rmtree(at / cure.remedy, ignore_errors=True)
    shutil.move(at / "whole" / cure.remedy, at / cure.remedy)
    return replace(found, ended=cure.ended)


def at_other_seeds(
    case: Case, plan: Plan, budget: Budget, where: Executor, end: float, metric: Metric | None
) -> list[Outcome]:
    """The first of the cures and the control, with what became of them at other seeds; of the next cure too, where the
    first did not learn at all of them. Nothing where that would take more than a share of the budget."""
    cures, control = good(case, metric), case.unchanged
    if not cures or control is None or control.outcome == "learning":
        return []
    cost = SEEDS * (control.seconds + cures[0].seconds) / budget.jobs
    if cost > min(budget.seconds / CHEAP, end - time.monotonic()):
        return []
    found = [_again(control, case, plan, budget, where, end)]
    for cure in cures[:2]:
        found.append(_again(cure, case, plan, budget, where, end))
        if all(each in ("learning", FIXED) for each in found[-1].again):
            break
    return found


def _again(outcome: Outcome, case: Case, plan: Plan, budget: Budget, where: Executor, end: float) -> Outcome:
    """The outcome with those of the same arm at other seeds."""
    plans = [
        replace(plan, seed=plan.seed + n, shift=n, folder=str(Path(plan.folder) / "seeds" / str(n)), par=None)
        for n in range(1, SEEDS + 1)
    ]
    limit = max(20.0, PATIENCE * outcome.seconds)
    waiting, running, ended = deque(plans), list[_Running](), list[Outcome]()
    try:
        while waiting or running:
            while waiting and len(running) < budget.jobs:
                deadline = min(time.monotonic() + limit, end + 5)
                running.append(_start(outcome.remedy, waiting.popleft(), deadline, where))
            for trial in [t for t in running if t.child.poll() is not None or time.monotonic() > t.deadline]:
                running.remove(trial)
                ended.append(_finish(trial, case, None))
            time.sleep(0.02)
    finally:
        for trial in running:
            stop(trial.child)
    return replace(outcome, again=tuple(FIXED if _same(each, outcome) else each.outcome for each in ended))


def _same(one: Outcome, other: Outcome) -> bool:
    """Whether two runs had the same loss wherever both curves tell one."""
    known = dict(other.curve)
    both = [(loss, known[step]) for step, loss in one.curve if step in known]
    return bool(both) and all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in both)


def _place(origin: Origin | None) -> str | None:
    """ "train.py:42", the line of the first bad operation."""
    return None if origin is None or origin.line is None else f"{origin.file}:{origin.line}"


def horizon(case: Case, budget: Budget, watched: float) -> int | None:
    """Steps after which trials are cut short, or None where whole runs fit into the budget."""
    steps = case.record.num_steps
    if watched * ARMS / budget.jobs <= budget.seconds or not steps:
        return None
    fitting = int(steps * budget.seconds * budget.jobs / (ARMS * watched))
    enough = int(AHEAD * (case.onset.bad_step or 0)) + 50
    return min(steps, max(fitting, enough))


def settled(record: RunRecord) -> int | None:
    """The step at which everything that makes up a step had been seen twice: each optimizer, each place that calls
    backward. None for a run without steps."""
    seen: dict[object, list[int]] = {}
    for row in record.steps:
        for part in (row.optimizer, *row.losses):
            seen.setdefault(part, []).append(row.step)
    return max((steps[:2][-1] for steps in seen.values()), default=None)


def _start(remedy: str, plan: Plan, deadline: float, where: Executor) -> _Running:
    folder = Path(plan.folder) / (remedy or "control")
    plan = replace(plan, folder=str(folder))
    plan = replace(plan, remedies=(*plan.remedies, remedy)) if remedy else replace(plan, settled=None)
    return _Running(remedy, where.start(plan), plan, time.monotonic(), deadline)


def _finish(trial: _Running, case: Case, metric: Metric | None) -> Outcome:
    late = trial.child.poll() is None
    stop(trial.child)
    seconds = time.monotonic() - trial.began
    note = "stopped: out of time" if late else (last_words(trial.plan) if trial.child.returncode else "")
    try:
        record = load_run(Path(trial.plan.folder))
    except UnreadableRecord:
        return Outcome(
            remedy=trial.remedy, outcome="nonfinite", steps=0, loss=None, metric=None, seconds=seconds, note=note
        )
    bad = case.onset.bad_step or 0
    way = travelled(record, trial.remedy) / travelled(case.record, "", until=bad)
    if late and record.num_steps <= bad + RECENT:
        way, note = 0.0, f"stopped: out of time before step {bad}, where it broke; a larger --budget would tell"
    idle = [event for event in record.events if event.kind == IDLE]
    unmet = bool(trial.remedy) and {each.name for each in parse(trial.remedy)} <= {
        event.data.get("remedy") for event in idle
    }
    if unmet:
        note = idle[0].message
    note = note or next((event.message for event in record.events if event.kind == LOST), "")
    guess = case.evidence.guess
    outcome = judge_trial(record, trial.remedy, seconds=seconds, metric=metric, travelled=way, guess=guess, note=note)
    return replace(outcome, idle=unmet, late=late)


def travelled(record: RunRecord, remedy: str, until: int | None = None) -> float:
    """Steps that a run went, in units of the script's own learning rate."""
    steps = record.num_steps if until is None else until + 1
    return steps * math.prod(part.value for part in parse(remedy) if isinstance(part, LowerLr)) if remedy else steps


def _threads(jobs: int) -> str:
    return str(max(1, (os.cpu_count() or 1) // jobs))
