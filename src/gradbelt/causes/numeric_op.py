"""An operation outside its domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradbelt._told import tell
from gradbelt.causes.case import Case, Clue

SINGULAR = frozenset(
    [
        "log",
        "log2",
        "log10",
        "log1p",
        "sqrt",
        "rsqrt",
        "div",
        "reciprocal",
        "pow",
        "exp",
        "expm1",
        "softmax",
        "log_softmax",
        "logsumexp",
        "norm",
        "linalg_vector_norm",
        "acos",
        "asin",
        "atanh",
        "acosh",
        "atan2",
        "std",
        "var",
        "mean",
        "cdist",
        "tan",
        "digamma",
        "lgamma",
        "xlogy",
        "sigmoid",
        "cumprod",
        "prod",
        "safe_softmax",
    ]
)
"""Operations with a point, or a range, where the value or the derivative is not finite."""


@dataclass(frozen=True, slots=True)
class NumericOp:
    """log or a division at zero, the derivative of a square root at zero, exp of a large number, softmax of a fully
    masked row."""

    name: ClassVar[str] = "numeric_op"
    prior: ClassVar[float] = 0.12
    cures: ClassVar[tuple[str, ...]] = ("eps_in_op", "mask_fix", "skip_step")

    def weigh(self, case: Case) -> list[Clue]:
        clues = []
        origin = case.evidence.origin
        if case.at_once:
            clues.append(Clue(2.0, tell("the numbers broke without having grown first")))
        else:
            clues.append(Clue(-2.0, tell("the numbers had grown before they broke")))
        if origin is not None and origin.op in SINGULAR:
            clues.append(
                Clue(3.0, tell("{op} was outside its safe range: {story}", op=origin.op, story=origin.message))
            )
        if case.overflowed:
            clues.append(
                Clue(
                    -4.0,
                    tell("numbers of size {size} went in: an overflow, not a pole", size=f"{case.evidence.size:.2g}"),
                )
            )
        if origin is None or origin.stage in ("update", "data"):
            clues.append(Clue(-3.0, tell("no single operation turned finite numbers into nan or inf")))
        if case.evidence.finite_in == "none":
            clues.append(Clue(1.0, tell("the operation that broke is not finite in float64 either")))
        elif case.evidence.finite_in is not None:
            clues.append(
                Clue(-2.0, tell("the operation that broke is finite in {precision}, on the very same numbers",
                                precision=case.evidence.finite_in))
            )  # fmt: skip
        if case.evidence.batch_ratio == math.inf:
            clues.append(Clue(1.0, tell("at the same weights other batches do not break")))
        if case.tried("eps_in_op", "mask_fix"):
            clues.append(Clue(3.0, tell("with the safe form of that operation the script learns")))
        if case.evidence.half:
            clues.append(Clue(-1.5, tell("half precision overflows by itself")))
        return clues
