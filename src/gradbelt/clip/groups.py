"""Rules of their own for parameters by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt

from gradbelt._types import WINDOW, Action, Bound, ClipGroups, History, Keep, Measurement, Scale, ScaleEach, Skip
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

Positions = npt.NDArray[np.intp]

Part = tuple[str, Positions, Rule, Measurement, History]
"""A group that has a rule: its pattern, the positions of its parameters, the rule, what that sees and remembers."""


ALONE = ("value", "agc", "update", "groups")
"""Rules that act on what a norm doesn't tell, and so can't be a group's."""


@dataclass(frozen=True)
class Groups:
    """Each group of parameters is clipped by its own rule, by the norm of that group alone; the others don't matter.

    `rules` has a pattern (fnmatch, upper and lower case differ) for each rule; a parameter belongs to the first pattern
    that its name matches. A number is a Norm; None leaves the group alone, and so is what no pattern matches.

    Use it where parts of a network have scales of their own: embeddings and the rest, two towers, generator heads, and
    to leave normalisation layers or heads out. It turns the gradient as a whole. One limit for each module, without a
    list of names, is `Modules`. `fasten` must be given the model, for without names nothing matches but "*".

        clip.Groups({"*norm*": None, "*.embedding.*": clip.Norm(0.5, p=1), "*": clip.Auto()})
        gradbelt run --clip "groups:*norm*=none;*.embedding.*=0.5;*=auto" train.py

    A rule that looks at the past (Auto, Ema, ...) sees the past of its own group. Raises UsageError for no rules, and
    for Value, AGC and Update: these act on what a group's norms don't tell; put them beside in a Chain, AGC has an
    `exclude`.

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
            if rule is not None and (not isinstance(rule, Rule) or rule.name in ALONE):
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
        coefficients = np.ones(len(seen.names))
        bounds: list[Bound] = []
        for _, where, rule, part, past in self._parts(seen, history):
            action = rule.decide(part, past)
            if isinstance(action, Skip):
                return action
            coefficients[where] = _factors(action, len(where))
            if isinstance(action, ClipGroups):
                bounds += [replace(bound, where=tuple(where[list(bound.where)].tolist())) for bound in action.bounds]
        coefficients[coefficients >= 1.0 / STEP] = 1.0
        others = tuple(coefficients.tolist()) if (coefficients < 1.0).any() else ()
        if bounds:
            return ClipGroups(tuple(bounds), others)
        return ScaleEach(others) if others else Keep()

    def note(self, seen: Measurement, action: Action, history: History) -> Mapping[str, tuple[float, ...]]:
        """The window of ln(norm), clipped, of each group, and what its rule notes."""
        notes: Notes = {}
        coefficients = np.array(_factors(action, len(seen.names)))
        for pattern, where, rule, part, past in self._parts(seen, history):
            factors = coefficients[where]
            left = math.hypot(*(part.norm * factors).tolist())
            if left > 0.0:
                notes[f"{pattern}/levels"] = (*past.levels[1 - WINDOW :], math.log(left))
            if takes_notes(rule):
                did = ScaleEach(tuple(factors.tolist())) if (factors < 1.0).any() else Keep()
                notes |= noted(rule.note(part, did, past), rule, pattern)
        return notes

    def _parts(self, seen: Measurement, history: History) -> Iterator[Part]:
        rules = cast(tuple[tuple[str, Rule | None], ...], self.rules)  # since __post_init__
        norms = as_kept(seen.norm)
        for place, where, names in _places(tuple(pattern for pattern, _ in rules), seen.names):
            pattern, rule = rules[place]
            if rule is None:
                continue
            mine = norms[where]
            part = replace(
                seen,
                names=names,
                norm=mine,
                total=math.hypot(*mine.tolist()),
                weight=None if seen.weight is None else seen.weight[where],
                peak=None if seen.peak is None else seen.peak[where],
                zeros=None if seen.zeros is None else seen.zeros[where],
                unclipped=None,
            )
            levels = history.notes.get(f"{pattern}/levels", ())
            past = History(levels=levels, accepted=len(levels), notes=history.notes)
            yield pattern, where, rule, part, own(past, rule, pattern)


@functools.lru_cache(maxsize=64)
def _places(patterns: tuple[str, ...], names: tuple[str, ...]) -> list[tuple[int, Positions, tuple[str, ...]]]:
    """Of each pattern that is some name's first match: its place, and the positions and names of those."""
    found = np.array(first_match(patterns, names))
    wheres = [(place, np.flatnonzero(found == place)) for place in range(len(patterns))]
    return [(place, where, tuple(names[index] for index in where)) for place, where in wheres if len(where)]


def _factors(action: Action, count: int) -> Sequence[float]:
    match action:
        case Scale(coefficient):
            return [coefficient] * count
        case ScaleEach(coefficients):
            return coefficients
        case ClipGroups(_, others) if others:
            return others
        case _:
            return [1.0] * count


_SOME = Groups({"p0": 1.0, "p1": None, "*": 0.5})
CALM = (Example(rule=_SOME, seen=measured(0.9, 1e9, 0.3, 0.4)), Example(rule=_SOME, seen=measured(0.0)))
SICK = (
    Example(rule=_SOME, seen=measured(4.0, 0.1)),
    Example(rule=_SOME, seen=measured(0.1, 0.1, 3.0, 4.0)),
    Example(rule=Groups({"p0": Norm(1.0, p=1.0), "p1": 1.0, "*": Norm(0.5, p=4.0)}), seen=measured(4.0, 0.1, 3.0)),
)
