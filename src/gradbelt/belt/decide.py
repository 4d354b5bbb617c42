"""Measurement, History -> Action; and what a rule notes of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gradbelt._types import Action, History, Keep, Measurement, Skip
from gradbelt.clip import Rule
from gradbelt.clip.rule import Notes, noted, own, takes_notes


def decide(seen: Measurement, history: History, rule: Rule | None, *, guard: bool, place: int = 0) -> Action:
    """What the rule wants, or Skip for a gradient that is not finite where the belt guards the weights.

    A rule is never shown a measurement that is not finite: no threshold means anything there. `place` is its place
    among the belt's rules.
    """
    if not seen.finite:
        # where no parameter is bad here, one is on another rank
        return Skip("inf" if "inf" in (seen.bad.values() or [str(seen.total)]) else "nan") if guard else Keep()
    return Keep() if rule is None else rule.decide(seen, own(history, rule, str(place)))


def note(seen: Measurement, history: History, rule: Rule | None, action: Action, *, place: int = 0) -> Notes:
    """What the rule keeps of a step it was shown, and of those before; nothing of one that was left out."""
    if not seen.finite or isinstance(action, Skip) or not takes_notes(rule):
        return {}
    mine = own(history, rule, str(place))
    changed = {**mine.notes, **rule.note(seen, action, mine)}
    return noted({name: kept for name, kept in changed.items() if kept}, rule, str(place))


def with_notes(learnt: History, notes: Mapping[str, tuple[float, ...]]) -> History:
    """A history with the rules' notes; the one it is where there are none, so a step left out changes no note."""
    return replace(learnt, notes=notes) if notes else learnt
