"""What was found is told once an episode, not once a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from gradbelt._types import Finding, Verdict

QUIET = 50  # steps without a finding of its kind after which the next one begins a new episode

Episodes: TypeAlias = Mapping[str, tuple[int, int]]
"""Kind and shape -> the last step at which it was found, and how loud it has been in this episode."""


def news(verdict: Verdict, step: int, episodes: Episodes) -> tuple[Verdict, Episodes]:
    """What of a verdict is new at this step, and the episodes after it.

    New is what was not found in the last QUIET steps, or is louder than it was then.
    """
    if not verdict:
        return verdict, episodes
    new, going_on = [], dict(episodes)
    for finding in verdict:
        last, loud = going_on.get(_key(finding), (-QUIET - 1, 0))
        begins = step - last > QUIET
        if begins or finding.level > loud:
            new.append(finding)
        going_on[_key(finding)] = step, int(finding.level) if begins else max(loud, int(finding.level))
    return tuple(new), going_on


def _key(finding: Finding) -> str:
    return finding.kind if finding.shape is None else f"{finding.kind} {finding.shape}"
