"""Long series made short enough to draw, with what a reader looks for kept: the extremes and what is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gradbelt._types import BINADES, BUCKETS, LOWEST, Floats, StepRecord

Steps = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]

FINITE, ZERO, NAN, INF = 0, 1, 2, 3
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Line:
    """A series in two parts: `y` with its finite points, and the steps where there is none to draw."""

    x: Steps
    y: Floats
    nan: Steps
    inf: Steps

    @property
    def finite(self) -> bool:
        return not (self.nan.size or self.inf.size)


@dataclass(frozen=True, slots=True)
class Grid:
    """Gradient norms by parameter (rows) and step (columns), or other numbers by name, the largest of each bin."""

    names: tuple[str, ...]
    steps: Steps  # (C,) the step in the middle of each column
    level: Floats  # (P, C) log10 of the norm; nan where `code` is not FINITE or there is nothing
    code: Codes  # (P, C) FINITE, ZERO, NAN or INF; -1 where the parameter had no gradient

    def closed_up(self) -> Grid:
        """Without the columns in which there is nothing."""
        seen = (self.code >= 0).any(axis=0)
        return Grid(self.names, self.steps[seen], self.level[:, seen], self.code[:, seen])


def thin(steps: Steps, values: Floats, most: int = 1200) -> Line:
    """At most about `most` points: of each bucket its lowest and its highest, and one mark of each kind of non-finite.

    >>> line = thin(np.arange(4), np.array([1.0, np.nan, 3.0, np.inf]))
    >>> line.x.tolist(), line.nan.tolist(), line.inf.tolist()
    ([0, 2], [1], [3])
    """
    nan, inf = np.isnan(values), np.isinf(values)
    finite = ~(nan | inf)
    return Line(
        *_extremes(steps[finite], values[finite], most),
        nan=_sparse(steps[nan], most // 4),
        inf=_sparse(steps[inf], most // 4),
    )


def _extremes(steps: Steps, values: Floats, most: int) -> tuple[Steps, Floats]:
    if steps.size <= most:
        return steps, values
    starts = np.linspace(0, steps.size, most // 2 + 1).astype(np.int64)[:-1]
    bucket = np.searchsorted(starts, np.arange(steps.size), side="right") - 1
    order = np.lexsort((values, bucket))
    lowest = order[starts]
    highest = order[np.append(starts[1:], steps.size) - 1]
    keep = np.unique(np.concatenate([lowest, highest, [0, steps.size - 1]]))
    return steps[keep], values[keep]


def _sparse(steps: Steps, most: int) -> Steps:
    """The first, the last, and evenly spread ones between."""
    if steps.size <= most:
        return steps
    return steps[np.unique(np.linspace(0, steps.size - 1, most).astype(np.int64))]


Look: TypeAlias = tuple[int, tuple[str, ...], Floats]
"""A step, and a number of each name that is not negative."""


def gradients(rows: Sequence[StepRecord]) -> list[Look]:
    """The norm of every parameter's gradient, at each step."""
    return [(row.step, row.names, row.norm) for row in rows]


def scales(rows: Sequence[StepRecord]) -> list[Look]:
    """The RMS of every activation, at each step that was sampled."""
    return [
        (row.step, tuple(" ".join(filter(None, (each.name, each.kind))) for each in row.activations),
         np.array([each.rms for each in row.activations]))
        for row in rows
        if row.activations
    ]  # fmt: skip


def sizes(rows: Sequence[StepRecord]) -> list[Look]:
    """What share of the numbers of a step's gradients lies in each bucket of powers of two, largest first, at each step
    that was sampled; -1 where none does. Every gradient counts by as many of its numbers as were taken.

    Only from the first to the last bucket in which there was ever anything.
    """
    counts = [(row.step, row.exponents.sum(axis=0, dtype=np.int64)) for row in rows if row.exponents is not None]
    ever = np.flatnonzero(sum((count for _, count in counts), np.zeros(BUCKETS, np.int64)))
    if not ever.size:
        return []
    shown = slice(int(ever[0]), int(ever[-1]) + 1)
    names = tuple(_bucket(number) for number in range(shown.start, shown.stop))[::-1]
    return [
        (step, names, np.where(count > 0, count / max(count.sum(), 1), -1.0)[shown][::-1]) for step, count in counts
    ]


def _bucket(number: int) -> str:
    """
    >>> _bucket(0), _bucket(20), _bucket(BUCKETS - 1)
    ('< 2⁻⁴⁶', '2⁻⁸ … 2⁻⁶', '≥ 2¹⁴')
    """
    low, high = (f"2{str(LOWEST + BINADES * each).translate(RAISED)}" for each in (number, number + 1))
    return f"< {high}" if number == 0 else f"≥ {low}" if number == BUCKETS - 1 else f"{low} … {high}"


def grid(rows: Sequence[Look], most: int = 400) -> Grid:
    """Every name's number over the steps, in at most `most` columns; an alarm outlives the binning."""
    names = tuple(dict.fromkeys(name for row_names in {row[1]: None for row in rows} for name in row_names))
    if not rows or not names:
        return Grid(names, np.zeros(0, np.int64), np.zeros((len(names), 0)), np.zeros((len(names), 0), np.int8))
    index = {name: i for i, name in enumerate(names)}
    first, last = min(row[0] for row in rows), max(row[0] for row in rows)
    width = max(1, -(-(last - first + 1) // most))
    columns = (last - first) // width + 1
    top = np.full((columns, len(names)), -1.0)  # -1: nothing there
    nan = np.zeros((columns, len(names)), dtype=bool)
    places: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
    for step, known, numbers in rows:
        if known not in places:
            places[known] = np.array([index[name] for name in known], dtype=np.int64)
        column, place = (step - first) // width, places[known]
        top[column, place] = np.fmax(top[column, place], numbers)
        nan[column, place] |= np.isnan(numbers)
    code = np.select([nan, top < 0, np.isinf(top), top == 0], [NAN, -1, INF, ZERO], FINITE).astype(np.int8)
    level = np.full(top.shape, np.nan)
    np.log10(top, out=level, where=code == FINITE)
    return Grid(names, first + width // 2 + width * np.arange(columns, dtype=np.int64), level.T, code.T)
