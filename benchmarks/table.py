"""What a benchmark hands on, and how it takes its times."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a title; `note` says how the figures were taken and what to reach."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """The table as Markdown, columns padded so that it also reads in a terminal."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])]) + "\n"


def interleaved(
    tasks: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 60,
    warm: int = 5,
    before: Callable[[str], object] = lambda name: None,
    after: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds of every task in every round. Each round runs all of them, starting with another one each time.

    Whatever slows the machine down slows all of them, so ratios of medians hold where times don't. `before` and `after`
    are called with a task's name around it, untimed.
    """
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(warm + rounds):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                before(name)
                start = time.perf_counter()
                tasks[name]()
                taken = time.perf_counter() - start
                after(name)
                if round_ >= warm:
                    seconds[name].append(taken)
    finally:
        if was_on:
            gc.enable()
    return seconds


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of ours / theirs within the round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
