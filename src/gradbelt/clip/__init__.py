"""Clipping rules, one file each.

    the whole, by its norm          Norm(1.0)     Norm(1.0, p=1)     Schedule(((0, 0.5), (1000, 1.0)))
    at a limit found from the run   Auto()        Ladder()   Ema()   Median()   Percentile()   Zscore()
    each parameter by itself        Each(1.0)     AdaGC()
    each module by itself           Modules(1.0, depth=2)
    each row, against its weights   AGC()
    each element                    Value(0.5)
    the update, not the gradient    Update(1.0)
    together                        Chain(Value(0.5), Norm(1.0))     Groups({"*norm*": None, "*": 1.0})

A rule decides from numbers and never touches a tensor; importing this loads no torch. `clip.dropin` has the functions
with torch.nn.utils' names and arguments.

>>> from gradbelt import clip
>>> clip.from_string("norm:1.0")
Norm(max_norm=1.0, p=2.0)
>>> clip.as_rule(0.5)
Norm(max_norm=0.5, p=2.0)
>>> clip.as_rule("none") is None
True
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any

from gradbelt.clip.adagc import AdaGC as AdaGC
from gradbelt.clip.agc import AGC as AGC
from gradbelt.clip.auto import Auto as Auto
from gradbelt.clip.chain import Chain as Chain
from gradbelt.clip.each import Each as Each
from gradbelt.clip.ema import Ema as Ema
from gradbelt.clip.groups import Groups as Groups
from gradbelt.clip.ladder import Ladder as Ladder
from gradbelt.clip.median import Median as Median
from gradbelt.clip.modules import Modules as Modules
from gradbelt.clip.norm import Norm as Norm
from gradbelt.clip.percentile import Percentile as Percentile
from gradbelt.clip.rule import Rule as Rule
from gradbelt.clip.schedule import Schedule as Schedule
from gradbelt.clip.update import Update as Update
from gradbelt.clip.value import Value as Value
from gradbelt.clip.zscore import Zscore as Zscore
from gradbelt.errors import NoSuchName, UsageError

KINDS: tuple[type[Any], ...] = (
    Norm, Value, Auto, Schedule, Ladder, Ema, Median, Percentile, Zscore, Each, AdaGC, Modules, AGC, Groups, Update,
)  # fmt: skip
RULES: dict[str, type[Any]] = {rule.name: rule for rule in KINDS}
"""Every rule by the name it has on a command line."""

__all__ = [
    "AGC", "RULES", "AdaGC", "Auto", "Chain", "Each", "Ema", "Groups", "Ladder", "Median", "Modules", "Norm",
    "Percentile", "Rule", "Schedule", "Update", "Value", "Zscore", "as_rule", "from_string",
]  # fmt: skip


def from_string(text: str) -> Rule | Chain | None:
    """The rule that `text` names: "norm:1.0", "value:0.5", "auto", a bare number (a norm), or "none".

    "norm:1.0,inf" has a p, "value:0.5+norm:1.0" is a chain, and "groups:*.embed*=0.5;*=auto" are groups by name.

    Raises NoSuchName, listing near names, and UsageError for numbers that are missing, too many or no threshold.

    >>> from_string("value:0.5"), from_string("1"), from_string("auto"), from_string("none")
    (Value(limit=0.5), Norm(max_norm=1.0, p=2.0), Auto(), None)
    >>> from_string("nrom:1.0")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gradbelt.errors.NoSuchName: no clipping rule is called 'nrom'; did you mean 'norm'? There are: ...
    """
    if len(parts := re.split(r"\+(?=\s*[A-Za-z])", text)) > 1:  # no sign of a number, nor 1e+5
        return Chain(*(_in_chain(part) for part in parts))
    name, _, given = text.strip().partition(":")
    name = name.lower()
    if name == "none" and not given:
        return None
    if _is_number(name) and not given:
        return Norm(float(name))
    if name not in RULES:
        raise NoSuchName(_no_such(name))
    rule = RULES[name]
    if rule is Groups:
        return _groups(given)
    numbers = [number for number in given.split(",") if number]
    if hasattr(rule, "of") and all(_is_number(number) for number in numbers):  # as many numbers as one likes
        listed: Rule = rule.of(*(float(number) for number in numbers))
        return listed
    fields = [field for field in dataclasses.fields(rule) if field.type in ("float", "int")]
    wanted = [field.name for field in fields]
    required = [field for field in fields if field.default is dataclasses.MISSING]
    if not len(required) <= len(numbers) <= len(wanted) or not all(_is_number(number) for number in numbers):
        usage = f"{name}:{','.join(wanted)}" if wanted else name
        example = f"{name}:1.0" if wanted else name
        raise UsageError(f"{text!r} is no clipping rule; write {usage}, with numbers, for example {example}.")
    made: Rule = rule(*(float(number) for number in numbers))
    return made


def as_rule(spec: Rule | Chain | float | str | None) -> Rule | Chain | None:
    """The rule meant by whatever a user gives for `clip=`: a rule, a number (global L2 norm), a string, or None.

    >>> as_rule(Value(0.5))
    Value(limit=0.5)
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        return from_string(spec)
    if isinstance(spec, Rule | Chain) and not isinstance(spec, type):
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


def _in_chain(text: str) -> Rule | Chain:
    rule = from_string(text)
    if rule is None:
        raise UsageError(f"{text.strip()!r} does nothing in a chain; leave it out.")
    return rule


def _groups(given: str) -> Groups:
    pairs = [part.rpartition("=") for part in given.split(";") if part.strip()]
    if not pairs or not all(pattern and rule for pattern, _, rule in pairs):
        raise UsageError(
            f"'groups:{given}' names no groups; write PATTERN=RULE;PATTERN=RULE, for example "
            '"groups:*norm*=none;*.embedding.*=0.5;*=auto".'
        )
    rules = {pattern.strip(): from_string(rule) for pattern, _, rule in pairs}
    return Groups(rules)  # type: ignore[arg-type]  # which says what is wrong with a chain


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
