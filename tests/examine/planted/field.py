"""Where faults are planted, and what they share.

A fault is a function that builds a model and returns `(parameters, loss)`, or trains by itself and returns None. It
goes wrong at step BAD: `off(step)` is 0 there and 1 elsewhere. The line to be found carries a comment: the pass, the
operation (| between equals), and the module where there is one.

    return p.log().mean()  #! forward log in head.1

`python -m tests.examine.planted FOLDER BAD [NAME]...` runs them, each in forked children of one process, so that torch
is imported once: first watched, then traced to its onset.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

MARK = re.compile(r"#! (?P<stage>[\w|]+) (?P<op>[\w|*]+)(?: in (?P<module>\S+))?")
BAD = 2


@dataclass(frozen=True)
class Fault:
    """What was planted, and where."""

    name: str
    plant: Callable[[], Any]
    file: str
    lines: tuple[int, ...]
    stages: tuple[str, ...]
    ops: tuple[str, ...]
    module: str | None
    element: dict[str, Any] | None = None  # of data that is finite: what is to be said of it


FAULTS: list[Fault] = []


def fault(plant: Callable[[], Any] | None = None, *, at: Any = None, **element: Any) -> Any:
    """Registers a fault; `at` is the function or class that holds the marked line, the fault itself by default."""
    if plant is None:
        return lambda plant: fault(plant, at=at, **element)
    source, first = inspect.getsourcelines(at or plant)
    marks = [(first + i, match) for i, line in enumerate(source) if (match := MARK.search(line))]
    assert marks, f"{plant.__name__} has no marked line"
    FAULTS.append(
        Fault(
            name=plant.__name__,
            plant=plant,
            file=os.path.basename(inspect.getsourcefile(at or plant)),
            lines=tuple(line for line, _ in marks),
            stages=tuple(marks[0][1]["stage"].split("|")),
            ops=tuple(marks[0][1]["op"].split("|")),
            module=marks[0][1]["module"],
            element=element or None,
        )
    )
    return plant


def off(step: int) -> float:
    """0 at the step that goes wrong, 1 at all others."""
    return float(step != BAD)


def steps() -> int:
    """How many a loop takes: a loss that stays finite must be seen to stay up."""
    return BAD + (3 if BAD < 5 else 10)


def batch(step: int, *shape: int) -> torch.Tensor:
    """The batch of a step, the same every time; 8 rows of 4 features unless told."""
    return torch.randn(*(shape or (8, 4)), generator=torch.Generator().manual_seed(100 + step))


def train(parameters: Any, loss: Callable[[int], torch.Tensor]) -> None:
    """The plainest loop there is."""
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    for step in range(steps()):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
