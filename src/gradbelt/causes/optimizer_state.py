"""Constants of the optimizer that don't fit together."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """A second moment that forgets faster than the first, an epsilon that rules the denominator."""

    name: ClassVar[str] = "optimizer_state"
    prior: ClassVar[float] = 0.04
    cures: ClassVar[tuple[str, ...]] = ("optimizer_defaults", "lower_beta2", "higher_eps")

    def weigh(self, case: Case) -> list[Clue]:
        clues = []
        unusual = case.evidence.unusual
        if not unusual:
            return [Clue(-7.0, tell("the optimizer runs with its default constants"))]
        said = ", ".join(f"{name}={value}" for name, value in unusual.items())
        cured = case.tried("optimizer_defaults")
        if any(_ill(name, value) for name, value in unusual.items()):
            clues.append(Clue(3.0, tell("these don't fit together: {constants}", constants=said)))
        clues.append(Clue(0.5, tell("unusual constants: {constants}", constants=said)))
        if cured is not None:
            clues.append(
                Clue(5.0, tell("with the default constants the script learns"))
                if cured
                else Clue(-4.0, tell("the default constants did not help"))
            )
        return clues


def _ill(name: str, value: str) -> bool:
    """Whether a constant is beyond what anyone chooses: eps a thousandfold off, a second moment shorter than the
    first."""
    set_to, default = (ast.literal_eval(part) for part in value.removesuffix(")").split(" (default "))
    if name == "betas":
        return bool(set_to[0] > set_to[1])
    return name == "eps" and set_to is not None and not 1e-3 * default <= set_to <= 1e5 * default
