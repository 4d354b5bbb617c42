"""Rules of their own for parameters by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from gradbelt._types import WINDOW, Action, History, Keep, Measurement, Scale, ScaleEach, Skip
from gradbelt.clip.norm import Norm
from gradbelt.clip.rule import (
    STEP,
    Example,
    Notes,
    Rule,
    as_kept,
    first_match,
    measured,
    noted,
    own,
    refuse,
    takes_notes,
)
from gradbelt.errors import UsageError

Given = Mapping[str, Rule | float | None] | Sequence[tuple[str, Rule | float | None]]

Part = tuple[str, list[int], Rule, Measurement, History]
"""A group that has a rule: its pattern, the positions of its parameters, the rule, what that sees and remembers."""


@dataclass(frozen=True)
class Groups:
    """Each group of parameters is clipped by its own rule, by the norm of that group alone; the others don't matter.

    `rules` has a pattern (fnmatch, upper and lower case differ) for each rule; a parameter belongs to the first pattern
    that its name matches. A number is a Norm; None leaves the group alone, and so is what no pattern matches.

    Use it where parts of a network have scales of their own: embeddings and the rest, two towers, generator heads, and
    to leave normalisation layers or heads out. It turns the gradient as a whole. `fasten` must be given the model, for
    without names nothing matches but "*".

        clip.Groups({"*norm*": None, "*.embedding.*": 0.5, "*": clip.Auto()})
        gradbelt run --clip "groups:*norm*=none;*.embedding.*=0.5;*=auto" train.py

    A rule that looks at the past (Auto, Ema, ...) sees the past of its own group. Raises UsageError for no rules, and
    for Value and AGC: these act element by element; put them beside in a Chain, AGC has an `exclude`.

    >>> from gradbelt.clip.rule import measured
    >>> Groups({"p0": 1.0, "p1": None, "*": Norm(0.5)}).decide(measured(4.0, 9.0, 0.3, 0.4), History())
    ScaleEach(coefficients=(0.25, 1.0, 1.0, 1.0))
    """

    rules: Given
    name: ClassVar[str] = "groups"
    SOURCE: ClassVar[str] = (
        "param-group clipping as in OLMo (2024) and Megatron's separate norm groups; optax.partition"
    )

    def __post_init__(self) -> None:
        given = self.rules.items() if isinstance(self.rules, Mapping) else self.rules
        rules = tuple((pattern, Norm(rule) if isinstance(rule, int | float) else rule) for pattern, rule in given)
        for pattern, rule in rules:
            if rule is not None and (not isinstance(rule, Rule) or rule.name in ("value", "agc", "groups")):
                raise UsageError(
                    f"Groups can't give {pattern!r} the rule {rule!r}: a group is scaled by its norms. "
                    'Norm, Each, Auto and the like work: clip.Groups({"*.embedding.*": clip.Norm(0.5), "*": 1.0}).'
                )
        if not rules:
            raise UsageError('Groups without a rule clip nothing; write clip.Groups({"*": 1.0}), or clip=None.')
        object.__setattr__(self, "rules", rules)

    def decide(self, seen: Measurement, history: History) -> Action:
        if not seen.finite:
            return refuse(seen)
        coefficients = [1.0] * len(seen.names)
        for _, where, rule, part, past in self._parts(seen, history):
            action = rule.decide(part, past)
            if isinstance(action, Skip):
                return action
            for index, factor in zip(where, _factors(action, len(where)), strict=True):
                coefficients[index] = factor if factor < 1.0 / STEP else 1.0
        return ScaleEach(tuple(coefficients)) if any(factor < 1.0 for factor in coefficients) else Keep()

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """The window of ln(norm), clipped, of each group, and what its rule notes."""
        notes: Notes = {}
        for pattern, where, rule, part, past in self._parts(seen, history):
            did = rule.decide(part, past)
            left = math.hypot(*(part.norm * _factors(did, len(where))))
            if left > 0.0:
                notes[f"{pattern}/levels"] = (*past.levels[1 - WINDOW :], math.log(left))
            if takes_notes(rule):
                notes |= noted(rule.note(part, did, past), rule, pattern)
        return notes

    def _parts(self, seen: Measurement, history: History) -> Iterator[Part]:
        rules = cast(Sequence[tuple[str, Rule | None]], self.rules)  # since __post_init__
        found = first_match(tuple(pattern for pattern, _ in rules), seen.names)
        norms = as_kept(seen.norm)
        for place, (pattern, rule) in enumerate(rules):
            where = [index for index, group in enumerate(found) if group == place]
            if rule is None or not where:
                continue
            part = replace(
                seen,
                names=tuple(seen.names[index] for index in where),
                norm=norms[where],
                total=math.hypot(*norms[where].tolist()),
                weight=None if seen.weight is None else seen.weight[where],
                unclipped=None,
            )
            levels = history.notes.get(f"{pattern}/levels", ())
            past = History(levels=levels, accepted=len(levels), notes=history.notes)
            yield pattern, where, rule, part, own(past, rule, pattern)


def _factors(action: Action, count: int) -> Sequence[float]:
    match action:
        case Scale(coefficient):
            return [coefficient] * count
        case ScaleEach(coefficients):
            return coefficients
        case _:
            return [1.0] * count


_SOME = Groups({"p0": 1.0, "p1": None, "*": 0.5})
CALM = (Example(rule=_SOME, seen=measured(0.9, 1e9, 0.3, 0.4)), Example(rule=_SOME, seen=measured(0.0)))
SICK = (Example(rule=_SOME, seen=measured(4.0, 0.1)), Example(rule=_SOME, seen=measured(0.1, 0.1, 3.0, 4.0)))
