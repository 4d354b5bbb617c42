"""What the parent asks of the child: one value, handed over in the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

VARIABLE = "GRADBELT_PLAN"
START = 20  # steps that are all measured in a run that is skimmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to run the script this time."""

    script: str  # a path, or a module's name with `module`
    argv: tuple[str, ...] = ()
    module: bool = False
    folder: str  # where the black box goes
    seed: int  # for Python, NumPy and torch; the script's own seeding comes later and wins
    shift: int = 0  # added to each seed that the script itself gives to one of them
    clip: str | None = None  # a clipping rule, as `gradbelt.clip.from_string` reads it
    remedies: tuple[str, ...] = ()  # "name" or "name=value", applied from outside
    horizon: int | None = None  # stop after so many steps
    trace_step: int | None = None  # the first bad step: follow every operation up to it, from `trace_from` on
    trace_from: int | None = None  # a healthy step, to compare with; None: there is none
    still: bool = False  # instead of following operations, no update is made from `trace_from` on
    skim: int = 0  # up to this step only some are measured: another run has measured them all
    settled: int | None = None  # the last of the remedies is tried; the step by which it has found what it can
    par: int | None = None  # a trial that has learnt nothing by this step is over
    line: int | None = None  # descriptor of a socket to the time machine, which is to have snapshots
    snapshots: tuple[int, ...] = ()  # steps after which it needs one
    door: int | None = None  # descriptor of a socket by which plans come for copies of this process, torch loaded
    origin: str | None = None  # "train.py:42", where numbers first broke; a remedy may act there alone
    check: Literal["script", "factory"] | None = None  # look at its first step and stop; a factory is "module:name"
    activations: float = 0.0  # share of time for looking at what modules put out
    quiet: bool = False  # a trial: nothing on the terminal, no live lines
    lang: str = "en"

    def passes(self, step: int) -> bool:
        """Whether this step is only counted. Measured are the first ones, then every tenth, from 1000 on every
        hundredth, and so on: never further apart than a tenth of the way.

        >>> plan = Plan(script="train.py", folder="run", seed=0, skim=5000)
        >>> [step for step in range(5010) if not plan.passes(step)][18:24], plan.passes(1010), plan.passes(5001)
        ([18, 19, 20, 30, 40, 50], True, False)
        """
        return START <= step < self.skim and step % 10 ** max(1, len(str(step)) - 2) != 0

    def environment(self) -> dict[str, str]:
        """The child's environment: this process's own, and the plan. Hash seeds are fixed, for set order repeats
        then."""
        environment = {**os.environ, VARIABLE: json.dumps(asdict(self))}
        environment.setdefault("PYTHONHASHSEED", str(self.seed % 2**32))
        return environment

    @classmethod
    def take(cls) -> Plan:
        """The plan of this process, removed from the environment so that the script and its children don't see it."""
        return cls.of(json.loads(os.environ.pop(VARIABLE)))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Plan:
        """The plan that was made a dict and sent as JSON, which turns tuples into lists."""
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
        return cls(**values)
