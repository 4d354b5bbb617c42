"""Clipping rules, one file each.

    Norm(1.0)        the gradient as a whole, by its L2 norm     Value(0.5)    every element by itself
    Schedule(...)    the same, at a limit that changes           Auto()        the same, at a limit found from the run
    Ema() Median() Zscore()    published ways to find it

A rule decides from numbers and never touches a tensor; importing this loads no torch. `clip.dropin` has the functions
with torch.nn.utils' names and arguments.

>>> from gradbelt import clip
>>> clip.from_string("norm:1.0")
Norm(max_norm=1.0)
>>> clip.as_rule(0.5)
Norm(max_norm=0.5)
>>> clip.as_rule("none") is None
True
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from gradbelt.clip.auto import Auto as Auto
from gradbelt.clip.ema import Ema as Ema
from gradbelt.clip.median import Median as Median
from gradbelt.clip.norm import Norm as Norm
from gradbelt.clip.rule import Rule as Rule
from gradbelt.clip.schedule import Schedule as Schedule
from gradbelt.clip.value import Value as Value
from gradbelt.clip.zscore import Zscore as Zscore
from gradbelt.errors import NoSuchName, UsageError

RULES: dict[str, type[Any]] = {rule.name: rule for rule in (Norm, Value, Auto, Schedule, Ema, Median, Zscore)}
"""Every rule by the name it has on a command line."""

__all__ = [
    "RULES", "Auto", "Ema", "Median", "Norm", "Rule", "Schedule", "Value", "Zscore", "as_rule", "from_string",
]  # fmt: skip


def from_string(text: str) -> Rule | None:
    """The rule that `text` names: "norm:1.0", "value:0.5", "auto", a bare number (a norm), or "none".

    Raises NoSuchName, listing near names, and UsageError for numbers that are missing, too many or no threshold.

    >>> from_string("value:0.5"), from_string("1"), from_string("auto"), from_string("none")
    (Value(limit=0.5), Norm(max_norm=1.0), Auto(), None)
    >>> from_string("nrom:1.0")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gradbelt.errors.NoSuchName: no clipping rule is called 'nrom'; did you mean 'norm'? There are: ...
    """
    name, _, given = text.strip().lower().partition(":")
    if name == "none" and not given:
        return None
    if _is_number(name) and not given:
        return Norm(float(name))
    if name not in RULES:
        raise NoSuchName(_no_such(name))
    rule = RULES[name]
    numbers = [number for number in given.split(",") if number]
    if hasattr(rule, "of") and all(_is_number(number) for number in numbers):  # as many numbers as one likes
        listed: Rule = rule.of(*(float(number) for number in numbers))
        return listed
    wanted = [field.name for field in dataclasses.fields(rule)]
    required = [field for field in dataclasses.fields(rule) if field.default is dataclasses.MISSING]
    if not len(required) <= len(numbers) <= len(wanted) or not all(_is_number(number) for number in numbers):
        usage = f"{name}:{','.join(wanted)}" if wanted else name
        example = f"{name}:1.0" if wanted else name
        raise UsageError(f"{text!r} is no clipping rule; write {usage}, with numbers, for example {example}.")
    made: Rule = rule(*(float(number) for number in numbers))
    return made


def as_rule(spec: Rule | float | str | None) -> Rule | None:
    """The rule meant by whatever a user gives for `clip=`: a rule, a number (global L2 norm), a string, or None.

    >>> as_rule(Value(0.5))
    Value(limit=0.5)
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        return from_string(spec)
    if isinstance(spec, Rule) and not isinstance(spec, type):
        return spec
    if isinstance(spec, type) and spec in RULES.values():
        raise UsageError(
            f"clip={spec.__name__} is the class; give a rule made from it, such as clip.{spec.__name__}(...)."
        )
    if _is_number(spec):
        return Norm(float(spec))  # type: ignore[arg-type]  # anything that float takes
    raise UsageError(
        f"clip={spec!r} is no clipping rule. Give clip.Norm(1.0) or another rule, a number (global L2 norm), "
        '"auto", a string such as "norm:1.0", or None.'
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _no_such(name: str) -> str:
    known = sorted([*RULES, "none"])
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return f"no clipping rule is called {name!r}{hint} There are: {', '.join(known)}, or a number such as 1.0."
