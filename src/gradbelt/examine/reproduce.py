"""Runs the script again up to its onset, and reads back what the tracer left."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gradbelt._told import Told, tell
from gradbelt._types import Element, Evidence, Onset, Origin, RunRecord
from gradbelt.belt.judge import onset as find_onset
from gradbelt.blackbox import load_run
from gradbelt.errors import UnreadableRecord
from gradbelt.examine.checkup import Look
from gradbelt.examine.foresee import foresee
from gradbelt.examine.others import beside_others, until
from gradbelt.supervise.launch import launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import TimeMachine

LOOK = 40  # steps before the tracing that are all measured, as in the run that is repeated; trials begin there, too
FAR = 10  # steps from the last healthy one to the first bad: further apart, every step between is followed for nothing
LITTLE = 5.0  # seconds that other batches may take in any case,
SHARE = 0.3  # and of the time to the onset
WORDS = {"input": tell("input"), "target": tell("target")}
CLOSE = 1e-3  # relative difference below which two losses count as the same: threads add up in another order


def reproduce(
    record: RunRecord,
    onset: Onset,
    plan: Plan,
    *,
    deadline: float,
    machine: TimeMachine | None = None,
    leave: Collection[int] = (),
) -> Evidence:
    """What is found on the way to the first bad step, the script being run again with the same seeds.

    It runs as cheaply as when it was watched, and leaves snapshots. From the last one before it began, every operation
    is followed. Where there can be none, it is followed in that same run, once it gets there.

    Args:
        plan: How the watched run was started; its `folder` is where the record of this one goes.
        deadline: time.monotonic() at which the attempt is given up. machine: Keeps the snapshots; without one they are
        gone in the end. leave: Steps after which further ones are to be left.
    """
    assert onset.bad_step is not None
    deadline = max(deadline, time.monotonic() + 1)
    if (trace_from(onset) or 0) < 1 or sys.platform != "linux":
        return _in_one_go(record, onset, aimed(plan, onset), deadline)
    with nullcontext(machine) if machine is not None else TimeMachine() as machine:
        evidence = _from_snapshot(record, onset, aimed(plan, onset), machine, leave, deadline)
    if not evidence.reproduced and record.meta.get("threads", 1) != 1 and time.monotonic() < deadline:
        # sums in another order: what one thread does not repeat, as many as before may
        again = replace(plan, folder=f"{plan.folder}-threads")
        return _in_one_go(record, onset, aimed(again, onset), deadline)
    return evidence


def aimed(plan: Plan, onset: Onset) -> Plan:
    """The plan of a run that is traced up to this onset, and no further."""
    bad = onset.bad_step or 0
    # numbers that break may do so in the second of two optimizers; a loss that leaves has left when its step is
    # measured
    broke = onset.first is not None and onset.first.kind[:3] in ("nan", "inf")
    first = trace_from(onset)
    # who acts on steps, or on what was measured of them, has to see each
    skim = 0 if first is None or plan.clip is not None or plan.remedies else max(0, first - LOOK)
    return replace(plan, trace_step=bad, trace_from=first, skim=skim, horizon=bad + (2 if broke else 1), quiet=True)


def trace_from(onset: Onset, record: RunRecord | None = None) -> int | None:
    """The healthy step that the tracing begins with: the last one, or the one before the first bad where that is far.

    None where there is none: the first step was bad. `record`: Where not every step was measured, distance is counted
    in steps that were.
    """
    bad, healthy = onset.bad_step, onset.healthy_step
    if not bad:
        return None
    if healthy is None:
        return bad - 1
    far = bad - healthy if record is None else len({row.step for row in record.steps if healthy < row.step <= bad})
    return healthy if far <= FAR else bad - 1


def _in_one_go(record: RunRecord, onset: Onset, plan: Plan, deadline: float) -> Evidence:
    in_time = wait_until(launch(plan), deadline)
    again = _read(plan)
    if again is None:
        return Evidence(reproduced=False)
    return evidence_of(record, onset, again, same=in_time and repeats(record, again, onset.bad_step or 0))


def _from_snapshot(
    record: RunRecord, onset: Onset, plan: Plan, machine: TimeMachine, leave: Collection[int], deadline: float
) -> Evidence:
    first = trace_from(onset)
    assert first is not None
    in_time = machine.run(plan, (first - 1, *leave), deadline)
    again = _read(plan)
    if again is None:
        return Evidence(reproduced=False)
    same = in_time and repeats(record, again, first)
    if not same and (own := find_onset(again)).exploded:  # it went its own way: that is what can be looked at
        record, onset = again, own
    plan = replace(aimed(plan, onset), trace_from=trace_from(onset, record))
    followed = _woken(machine, replace(plan, folder=str(Path(plan.folder) / "traced")), deadline)
    if followed is None or not any(event.kind == "evidence" for event in followed.events):
        machine.close()  # then that run is all there is; what it found it writes down when it ends
        followed, still = _read(machine.plan) or again, None
    else:
        beside = _stilled(plan)
        still = _woken(machine, beside, deadline) if is_affordable(record, beside) else None
    same = same and repeats(record, followed, onset.bad_step or 0)
    return evidence_of(record, onset, followed, still, same=same)


def _stilled(plan: Plan) -> Plan:
    """The plan of a run in which other batches meet the weights that this onset's met."""
    horizon = until(plan.trace_from or 0, plan.trace_step or 0) + 1
    return replace(plan, still=True, horizon=horizon, folder=str(Path(plan.folder) / "others"))


def is_affordable(record: RunRecord, plan: Plan) -> bool:
    """Whether the steps of a plan, at the pace of the run so far, take few seconds, or little beside the way there."""
    rows = [row for row in record.steps if row.step <= (plan.trace_step or 0)]
    if len(rows) < 2 or rows[0].step == rows[-1].step:
        return True
    way = rows[-1].time - rows[0].time
    num_steps = (plan.horizon or 0) - (plan.trace_from or 0)
    return way / (rows[-1].step - rows[0].step) * num_steps <= max(LITTLE, SHARE * way)


def _woken(machine: TimeMachine, plan: Plan, deadline: float) -> RunRecord | None:
    """What went on as planned from the last snapshot before `plan.trace_from`; None where there is none."""
    there = machine.before(plan.trace_from or 0)
    child = None if there is None else there.wake(plan)
    return _read(plan) if child is not None and wait_until(child, deadline) else None


def _read(plan: Plan) -> RunRecord | None:
    try:
        return load_run(Path(plan.folder))
    except UnreadableRecord:
        return None


def evidence_of(
    record: RunRecord, onset: Onset, again: RunRecord, still: RunRecord | None = None, *, same: bool
) -> Evidence:
    """What the tracer left in its black box, what a run without updates left in its own, and what was on record."""
    data: dict[str, Any] = next((dict(e.data) for e in again.events if e.kind == "evidence"), {})
    found, element = data.pop("origin", None), _element(data.pop("element", None))
    known = {field.name for field in fields(Evidence)}
    if found is not None and found["stage"] in ("forward", "backward"):
        data["size"], data["finite_in"] = found["high"], found.get("finite_in")
    data |= _foretold(data.pop("look", None)) | on_record(record, onset.bad_step or 0)
    data |= {} if still is None else beside_others(still, onset.bad_step or 0)
    facts: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in known}
    origin = _origin(found, record, onset, element, data.get("optimizer"))
    return Evidence(reproduced=same, origin=origin, element=element, **facts)


def _foretold(seen: dict[str, Any] | None) -> dict[str, Any]:
    """What the first step said about those to come; nothing where it could not be seen."""
    if seen is None:
        return {}
    look = Look.read(seen)
    return {
        "risks": foresee(look, None).risks,
        "skips": look.num_skips,
        "summed": look.summed,
        "attention": look.attention,
        "target_rms": look.target_rms,
        "guess": look.guess,
        "input_rms": look.input_rms,
        "input_spread": look.input_spread,
        "weight_ratio": max((layer.he for layer in look.layers if layer.he is not None), default=None),
    }


def on_record(record: RunRecord, bad: int) -> dict[str, float]:
    """Fields of Evidence that the watched run has on record, at the last look before the step `bad`."""
    before = [row for row in record.steps if row.step < bad]
    found: dict[str, float] = {}
    moved = next((row.moved for row in reversed(before) if row.moved is not None), None)
    if moved is not None:
        found["moved"] = float(statistics.median(share for share in moved.tolist() if not math.isnan(share)))
    shown = next((row.activations for row in reversed(before) if row.activations), ())
    seen = [one for one in shown if one.kind in ("attention", "softmax") and not math.isnan(one.peak)]
    if seen:
        sharpest = max(seen, key=lambda one: one.peak)
        found |= {"attended": sharpest.peak, "entropy": sharpest.entropy}
    return found


def repeats(record: RunRecord, again: RunRecord, until: int) -> bool:
    """Whether the second run saw the same losses and gradients up to and including step `until`."""
    first = {row.call: row for row in record.steps if row.step <= until}
    second = [row for row in again.steps if row.step <= until]
    if not second or second[-1].step < until:
        return False
    for b in second:
        if (a := first.get(b.call)) is None:
            return False
        pairs = [(a.total, b.total), *((a.losses[w], b.losses.get(w, math.nan)) for w in a.losses)]
        if not all(_close(x, y) for x, y in pairs):
            return False
    return True


def _close(x: float, y: float) -> bool:
    if math.isfinite(x) and math.isfinite(y):
        return abs(x - y) <= CLOSE * max(abs(x), abs(y), 1e-12)
    return math.isfinite(x) == math.isfinite(y)


def _element(data: dict[str, Any] | None) -> Element | None:
    return None if data is None else Element(**{**data, "shape": tuple(data["shape"])})


def _origin(
    found: dict[str, Any] | None, record: RunRecord, onset: Onset, element: Element | None, optimizer: str | None
) -> Origin | None:
    """The traced operation in words; where every operation was sound, the update that did it, with its line."""
    if found is not None:
        return Origin(
            stage=found["stage"],
            op=found["op"],
            module=found["module"],
            file=found["file"],
            line=found["line"],
            message=_words(found, element),
            tensor=found["tensor"],
            about=found["about"],
            element=element if found["stage"] == "data" else None,
        )
    first = onset.first
    if first is None or first.kind in ("nan_loss", "inf_loss", "nan_grad", "inf_grad"):
        return None
    if first.kind in ("nan_weight", "inf_weight"):
        name = _bad_weight(record, first.step)
        return Origin(
            stage="update", op="weights", module=None, file=None, line=None, tensor=name, about=True,
            message=tell("{tensor} held {made} before any update was followed",
                         tensor=name or tell("a weight"), made=first.kind[:3]),
        )  # fmt: skip
    if element is not None and element.ratio is not None and jumped(record, first.step):
        file, line = _place(element.where)
        return Origin(stage="data", op="batch", module=None, file=file, line=line, message=stands_out(element),
                      element=element)  # fmt: skip
    if leapt(record, first.step):
        file, line = _place(first.where)
        message = tell("the loss jumped in step {step}, after a step like any other: its batch did it", step=first.step)
        return Origin(stage="data", op="batch", module=None, file=file, line=line, message=message)
    op, at = _stepped(record, first.step, optimizer)
    file, line = _place(at)
    message = tell(
        "every operation up to step {step} was finite; the updates made at {at} did it", step=first.step, at=at
    )
    return Origin(stage="update", op=op, module=None, file=file, line=line, message=message)


def _stepped(record: RunRecord, step: int, optimizer: str | None) -> tuple[str, str | None]:
    """What updates the weights, and on which line; of several optimizers the one with the largest gradient then."""
    at: Any = record.meta.get("stepped_at")
    steppers: Any = record.meta.get("steppers") or ()
    rows = [row for row in record.steps if row.step == step and 0 <= row.optimizer < len(steppers)]
    if len(steppers) > 1 and rows:
        largest = max(rows, key=lambda row: row.total if row.total == row.total else math.inf)
        optimizer, at = steppers[largest.optimizer]
    return f"{optimizer}.step" if optimizer else "update", at


def leapt(record: RunRecord, bad: int) -> bool:
    """Whether the loss stood a thousandfold higher at step `bad`, after a step like any other.

    The weights had hardly moved, so what was new is the batch.
    """
    losses: dict[int, float] = {}
    for row in record.steps:
        if row.losses and row.step <= bad:
            losses[row.step] = losses.get(row.step, 0.0) + math.fsum(row.losses.values())
    norms = {row.step: row.total for row in record.steps if row.step < bad}
    if bad < 10 or bad not in losses or not norms:
        return False
    before = statistics.median([losses[step] for step in sorted(losses)[-6:-1]])
    calm = norms.get(bad - 1, math.inf) <= 5 * statistics.median(norms.values())
    return calm and 0 < 1e3 * before < losses[bad]


def jumped(record: RunRecord, bad: int) -> bool:
    """Whether the gradient, or the loss, of step `bad` or of the one before stood tenfold above all before these."""
    before = [(row.total, math.fsum(row.losses.values())) for row in record.steps if row.step < bad - 1]
    at = [(row.total, math.fsum(row.losses.values())) for row in record.steps if bad - 1 <= row.step <= bad]
    if len(before) < 3 or not at:
        return False
    return any(not max(new) <= 10 * max(old) for new, old in zip(zip(*at), zip(*before), strict=True))  # noqa: B905


def _bad_weight(record: RunRecord, step: int) -> str | None:
    """The first parameter that was not finite before a step."""
    for row in record.steps:
        if row.step == step and row.weight is not None:
            return next((n for n, w in zip(row.names, row.weight, strict=True) if not math.isfinite(w)), None)
    return None


def _place(at: object) -> tuple[str | None, int | None]:
    """ "train.py:61" as a file and a line; None for what is not known."""
    file, _, line = at.rpartition(":") if isinstance(at, str) else ("", "", "")
    return file or None, int(line) if line.isdigit() else None


def stands_out(element: Element) -> Told:
    """ "row 17, column 3 of the input: 1e+08; the column's median size is 0.7"."""
    where, value = element.where or "?", f"{element.value:.4g}"
    row, column, tensor = element.row, element.column, WORDS.get(element.tensor, element.tensor)
    said = tell("row {row}, column {column} of the {tensor} at {where}: {value}",
                row=row, column=column, tensor=tensor, where=where, value=value)  # fmt: skip
    if element.index is not None:
        said = tell("{said}, row {index} of the data set", said=said, index=element.index)
    if element.usual is not None:
        said = tell("{said}; the column's median size is {usual}", said=said, usual=f"{element.usual:.3g}")
    return said


def _words(found: dict[str, Any], element: Element | None) -> Told:
    where = f"{found['file']}:{found['line']}" if found["file"] else "?"
    given = "?" if found["high"] is None else f"{found['low']:.3g} … {found['high']:.3g}"
    op, made, stage = found["op"], found["made"], found["stage"]
    if stage == "data":
        said = tell("{made} was already in the data that {op} at {where} was given", made=made, op=op, where=where)
        if element is not None and element.ratio is None:
            said = tell("{one}: {other}", one=said, other=stands_out(element))
    elif found["how"] == "weight":
        said = tell("{op} at {where} was given weights that held {made} already", op=op, where=where, made=made)
    elif stage == "update":
        said = tell(
            "{op} at {where} made {made} while {tensor} was updated; sizes that went in: {given}",
            op=op, where=where, made=made, tensor=found["tensor"] or tell("a weight"), given=given,
        )  # fmt: skip
    elif found["how"] == "asked":
        said = tell("the {made} that {op} at {where} writes on purpose has reached the loss",
                    made=made, op=op, where=where)  # fmt: skip
    elif stage == "backward":
        said = tell(
            "the derivative of {op} at {where} is {made}; sizes that went in: {given}",
            op=op, where=where, made=made, given=given,
        )  # fmt: skip
    else:
        said = tell(
            "{op} at {where} made {made} out of finite numbers; sizes that went in: {given}",
            op=op, where=where, made=made, given=given,
        )  # fmt: skip
    return tell("probably: {story}", story=said) if found["about"] else said
