"""Measurement, History -> Action."""

from __future__ import annotations

from gradbelt._types import Action, History, Keep, Measurement, Skip
from gradbelt.clip import Rule


def decide(seen: Measurement, history: History, rule: Rule | None, *, guard: bool) -> Action:
    """What the rule wants, or Skip for a gradient that is not finite where the belt guards the weights.

    A rule is never shown a measurement that is not finite: no threshold means anything there.
    """
    if not seen.finite:
        return Skip("inf" if "inf" in seen.bad.values() else "nan") if guard else Keep()
    return Keep() if rule is None else rule.decide(seen, history)
