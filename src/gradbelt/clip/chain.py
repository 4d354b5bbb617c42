"""Several rules, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from gradbelt.clip.rule import Rule
from gradbelt.errors import UsageError


class Chain:
    """The first rule acts on the gradients, and each further one on what the one before it left.

    The gradients are read again only where numbers can't tell what was left (Value, AGC). The order matters: elements
    first and the whole last, `Chain(Value(0.5), Norm(1.0))`, ends at a norm of at most 1.0 and at elements of at most
    0.5. The record has the last action that changed something. Chains may lie in chains. Raises UsageError for no rule.

    It is a list of rules and no rule: what `clip=` and `clip.from_string` take, spelt "value:0.5+norm:1.0".

    >>> from gradbelt import clip
    >>> clip.Chain(clip.Value(0.5), clip.Norm(1.0))
    Chain(Value(limit=0.5), Norm(max_norm=1.0, p=2.0))
    """

    name = "chain"

    def __init__(self, *rules: Rule | Chain) -> None:
        given = (rule for part in rules for rule in (part if isinstance(part, Chain) else (part,)))
        self.rules: tuple[Rule, ...] = tuple(given)
        wrong = [rule for rule in self.rules if not isinstance(rule, Rule) or isinstance(rule, type)]
        if wrong or not self.rules:
            raise UsageError(
                f"a chain is made of rules, one or more, not of {wrong[0]!r}."
                if wrong
                else "a chain needs a rule; to clip nothing, give clip=None."
            )

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.rules == other.rules

    def __hash__(self) -> int:
        return hash(self.rules)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.rules))})"
