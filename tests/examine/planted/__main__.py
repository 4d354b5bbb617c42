"""Runs the planted faults and prints what is found: a line of JSON each."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tests.examine.planted import backward, data, decoys, field, forward, loops, modules, update  # noqa: F401  planted
from tests.examine.planted.field import FAULTS, Fault

from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.examine.reproduce import aimed, evidence_of
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.plan import Plan


def main(folder: str, bad: str, *names: str) -> None:
    field.BAD = int(bad)
    torch.set_num_threads(1)
    field.train([torch.nn.Parameter(torch.ones(1))], lambda _: torch.zeros(1, requires_grad=True))  # imports the rest
    gc.freeze()  # what the children's look for modules need not go through
    for fault in FAULTS:
        if fault.name in names or (not names and fault.element is None):
            print(json.dumps([fault.name, found(fault, Path(folder) / fault.name)]), flush=True)


def found(fault: Fault, folder: Path) -> dict[str, Any]:
    """The origin that gradbelt names: the script is watched, its onset judged, and the way there traced."""
    plan = Plan(script=fault.file, folder=str(folder / "watched"), seed=0, quiet=True)
    forked(fault, plan)
    record = load_run(folder / "watched")
    judged = onset(record)
    if judged.bad_step is None:
        return {"bad_step": None}
    forked(fault, aimed(replace(plan, folder=str(folder / "again")), judged))
    origin = evidence_of(record, judged, load_run(folder / "again"), same=True).origin
    fields = {} if origin is None else {name: getattr(origin, name) for name in origin.__slots__}
    if origin is not None and origin.element is not None:
        fields["element"] = asdict(origin.element)
    return {"bad_step": judged.bad_step, **fields}


def forked(fault: Fault, plan: Plan) -> None:
    """Runs a fault in a child, as the command's own child runs a script."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    Path(plan.folder).mkdir(parents=True)
    sys.stderr = (Path(plan.folder) / "stderr.log").open("w")
    patient = Patient(plan, warn=lambda line: print(line, file=sys.stderr))
    if plan.trace_step is not None:
        from gradbelt.examine.trace import Tracer

        Tracer(patient, plan.trace_step, plan.trace_from)
    code = patient.run(lambda: train(fault))
    atexit._run_exitfuncs()
    os._exit(code)  # what python does after this would touch, and so copy, all of the parent's memory


def train(fault: Fault) -> None:
    torch.manual_seed(0)
    made = fault.plant()
    if made is not None:
        field.train(*made)


if __name__ == "__main__":
    main(*sys.argv[1:])
