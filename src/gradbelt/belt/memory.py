"""What a belt remembers from one step to the next; plain numbers at any moment, for `Belt.state_dict`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gradbelt._types import Activation, Course, History, Layers, Point, Trend
from gradbelt.belt.episodes import Episodes

EAGER = 10  # steps at the start whose weights are all sampled
EVERY = 10  # afterwards every tenth, and the one after a jump of the gradient
RARELY = 50  # the steps whose update is followed
JUMP = 5.0  # times the median of the last norms, before clipping


class Memory:
    """The count of calls and steps, a History for each optimizer, and the course of the loss."""

    def __init__(self) -> None:
        self.calls = 0
        self.histories: dict[int, History] = {}
        self.course = Course()
        self._step, self._called = 0, set[int]()  # the step that is going on, and the optimizers called in it
        self.episodes: Episodes = {}  # what was found, and last told
        self._jumped: set[int] = set()  # optimizers whose last gradient stood far above its past

    @property
    def next_step(self) -> int:
        """The step that comes next, should the optimizer that was called first be called again."""
        return self._step + bool(self._called)

    def history(self, index: int) -> History:
        """Of one optimizer; an empty one before its first step."""
        return self.histories.get(index, History())

    def is_sampled(self, index: int) -> bool:
        """Whether the weights are read at the next step of this optimizer."""
        steps = self.history(index).steps
        return steps < EAGER or steps % EVERY == 0 or self.has_jumped(index)

    def is_followed(self, index: int) -> bool:
        """Whether what the next step of this optimizer makes of its weights is looked at."""
        steps = self.history(index).steps
        return steps < EAGER or steps % RARELY == 0

    def has_jumped(self, index: int) -> bool:
        """Whether the last gradient of this optimizer stood far above its past."""
        return index in self._jumped

    @property
    def step(self) -> int:
        """The step that is going on, or was the last."""
        return self._step

    def step_of(self, index: int) -> int:
        """The step that a call of this optimizer would belong to."""
        return self._step + (index in self._called)

    def begin(self, index: int) -> int:
        """The step that this call belongs to: a new one where the optimizer was called in the last one already."""
        if index in self._called:
            self._step += 1
            self._called.clear()
        self._called.add(index)
        return self._step

    def keep(self, index: int, history: History, total: float) -> None:
        """The history of an optimizer after a step whose gradient had this norm.

        Where it stood far above its past, the weights it leaves behind are worth reading. Both are taken before
        clipping: one that is clipped hard at every step, and always by as much, has not jumped.
        """
        self.histories[index] = history
        if history.raw and not total <= JUMP * math.exp(statistics.median(history.raw)):  # nan is a jump
            self._jumped.add(index)
        else:
            self._jumped.discard(index)

    def state_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists and numbers."""
        return {
            "calls": self.calls,
            "step": self._step,
            "called": sorted(self._called),
            "jumped": sorted(self._jumped),
            "histories": {index: _plain(history) for index, history in self.histories.items()},
            "episodes": {kind: list(last) for kind, last in self.episodes.items()},
            "course": {**asdict(self.course), "streams": dict(self.course.streams)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was taken, also after JSON, which makes lists of tuples and text of keys."""
        self.calls, self._step = state["calls"], state["step"]
        self._called, self._jumped = set(state["called"]), set(state["jumped"])
        self.histories = {int(index): _history(fields) for index, fields in state["histories"].items()}
        self.episodes = {kind: (step, loud) for kind, (step, loud) in state.get("episodes", {}).items()}
        course = dict(state["course"])
        course["recent"] = tuple(Point(**point) for point in course["recent"])
        course["window"] = tuple(course["window"])
        course["trend"] = _trend(course.get("trend", {}))
        self.course = Course(**course)


def _plain(history: History) -> dict[str, Any]:
    layers = None if history.layers is None else history.layers.plain()
    return {**asdict(replace(history, layers=None)), "layers": layers}


def _history(fields: Mapping[str, Any]) -> History:
    """Also from what an older version saved, which remembered less."""
    known = {name: tuple(fields.get(name, ())) for name in ("levels", "raw", "scales", "moved")}
    shown = {
        name: tuple(tuple(Activation(**each) for each in sample) for sample in fields.get(name, ()))
        for name in ("began", "lately")
    }
    notes = {name: tuple(numbers) for name, numbers in fields.get("notes", {}).items()}
    trend, layers = _trend(fields.get("trend", {})), _layers(fields.get("layers"))
    return History(**{**fields, **known, **shown, "notes": notes, "trend": trend, "layers": layers})


def _trend(fields: Mapping[str, Any]) -> Trend:
    return Trend(**{**fields, "tail": tuple(fields.get("tail", ()))})


def _layers(fields: Mapping[str, Any] | None) -> Layers | None:
    if fields is None:
        return None
    names, table = tuple(fields["names"]), np.array(fields["table"], dtype=np.float64).reshape(4, -1)
    marks = tuple((at, np.array(norms, dtype=np.float64)) for at, norms in fields["weights"])
    return Layers(names=names, table=table, weights=marks)
