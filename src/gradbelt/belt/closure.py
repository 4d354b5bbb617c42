"""A step with a closure: Lightning and LBFGS run forward and backward inside the step, LBFGS several times.

The first evaluation is the step's record. A further one is acted on like it, and can only make the record worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradbelt._types import Action, History, Measurement, StepRecord
from gradbelt.belt.apply import act
from gradbelt.belt.beside import Beside
from gradbelt.belt.measure import measure, read
from gradbelt.clip import Rule


def watched(
    closure: Callable[[], Any],
    optimizer: Optimizer,
    *,
    look: Callable[[], object],
    refused: Callable[[], bool],
    settle: Callable[[], None],
) -> Callable[[], Any]:
    """The closure, with `look` called after each evaluation, and `settle` where one raises.

    `refused` answers whether the step is being left out.
    """
    evaluations = 0

    def evaluate() -> Any:
        nonlocal evaluations
        try:
            loss = closure()
            look()
        except BaseException:
            settle()  # torch calls no post-hook then
            raise
        evaluations += 1
        # a nan makes LBFGS's line search raise IndexError; this, with no gradient, ends it at once
        return -math.inf if evaluations > 1 and isinstance(optimizer, LBFGS) and refused() else loss

    return evaluate


def look_again(
    row: StepRecord, parameters: Sequence[Tensor], names: tuple[str, ...], rules: Sequence[Rule], history: History,
    *, guard: bool,
) -> tuple[Measurement, Action]:  # fmt: skip
    """A further evaluation in the step of `row`: measured, and acted on; `history` is from before the step."""
    beside = Beside(lrs=(row.lr,))
    seen = measure(read(parameters), beside, names, call=row.call, step=row.step, optimizer=row.optimizer)
    seen = replace(seen, losses=row.losses, weight=row.weight, unclipped=row.unclipped)
    action, _, _ = act(rules, parameters, seen, history, guard=guard)
    return seen, action
