"""What a remedy did to a script, and where: so that one that found nothing to act on says so."""

from __future__ import annotations

from collections import Counter
from typing import Any

ACTED, IDLE = "remedy", "remedy_idle"  # kinds of event: what a remedy did, and that it found nothing to do
MOST = 200  # places that are kept


class Deeds:
    """Counts of what one remedy did, by kind and place.

    >>> deeds = Deeds("eps_in_op", "no operation came near a pole")
    >>> deeds("log", "train.py:42"); deeds("log", "train.py:42")
    >>> deeds.message
    'eps_in_op: log at train.py:42 (2 times)'
    """

    def __init__(self, remedy: str, otherwise: str, *, soon: bool = False) -> None:
        """`soon`: what the remedy looks for is part of every step, so it shows in the first ones or never."""
        self.remedy, self.otherwise, self.soon = remedy, otherwise, soon
        self.done: Counter[tuple[str, str]] = Counter()
        self.facts: dict[tuple[str, str], dict[str, Any]] = {}  # for an edit: what JSON can hold

    def __call__(self, what: str, where: str | None = None) -> None:
        if (what, where or "") in self.done or len(self.done) < MOST:
            self.done[what, where or ""] += 1

    @property
    def message(self) -> str:
        said = [
            f"{what}{f' at {where}' if where else ''} ({times} time{'s' if times > 1 else ''})"
            for (what, where), times in self.done.most_common(3)
        ]
        return f"{self.remedy}: {', '.join(said)}{' and more' if len(self.done) > 3 else ''}"

    @property
    def data(self) -> dict[str, object]:
        """For the record: the remedy, [what, where, how often] for each thing it did, and what is known of it."""
        return {
            "remedy": self.remedy,
            "done": [[what, where, n] for (what, where), n in self.done.items()],
            "facts": [[what, where, facts] for (what, where), facts in self.facts.items()],
        }
