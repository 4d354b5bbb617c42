"""The last states that are known to be sound."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradbelt._types import Level, Verdict
from gradbelt.errors import UsageError
from gradbelt.recover.state import State, Stateful

CERTAIN = 20  # steps without an alarm after which a state was sound: what it held has shown by then


@dataclass(slots=True)
class _Kept:
    state: State
    memory: Any  # of the belt
    age: int = 0  # steps since


class Snapshots:
    """A copy of the training every so many steps, kept on the host; `Belt.rollback` goes back to the last sound one.

    A copy is taken when the model is first called after a step, so a scheduler and a loss scaler have moved on too. It
    is certified once 20 further steps brought no alarm; what an alarm finds uncertified is thrown away.

    Args:
        every: Steps between two copies. also: What else has a state: schedulers, a GradScaler, an EMA. most: Certified
        copies that are kept. megabytes: Bound on all of them together; a model whose one copy is larger has none.
    """

    def __init__(
        self, every: int = 100, *, also: Sequence[Stateful] = (), most: int = 2, megabytes: float = 4096.0
    ) -> None:
        if every < 1 or most < 1:
            raise UsageError(f"snapshots every {every} steps, at most {most} of them: both are at least 1")
        self.every, self.also, self.most, self.megabytes = every, tuple(also), most, megabytes
        self._certified: deque[_Kept] = deque()
        self._fresh: deque[_Kept] = deque()
        self._since = 0
        self._due = True
        self._handle: Any = None

    def fit(self, model: nn.Module, optimizers: Callable[[], Iterable[Optimizer]], remember: Callable[[], Any]) -> None:
        """From now on copies are taken of this model and these optimizers, with what `remember` answers."""
        known = weakref.ref(model)

        # not on the model itself: scripts copy and save their models, hooks and all
        def knock(module: nn.Module, _args: Any) -> None:
            if self._due and module is known() and module.training and torch.is_grad_enabled():
                self._due = False
                self._take(_Kept(State(module, optimizers(), self.also), remember()))

        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(knock)

    def release(self) -> None:
        """Takes no more copies; those there are can still be gone back to."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def completed(self) -> None:
        """A step is complete."""
        self._since += 1
        if self._since >= self.every:
            self._since, self._due = 0, True
        for kept in self._fresh:
            kept.age += 1
        while self._fresh and self._fresh[0].age >= CERTAIN:
            self._certified.append(self._fresh.popleft())
            while len(self._certified) > self.most:
                self._certified.popleft()

    def heard(self, verdict: Verdict) -> None:
        """An alarm makes all that is not certified doubtful."""
        if any(finding.level is Level.ALARM for finding in verdict):
            self._fresh.clear()
            self._due = True

    def rollback(self) -> Any:
        """Training is what it was at the last certified copy; answers what was remembered with it.

        Raises:
            UsageError: There is none yet.
        """
        if not self._certified:
            raise UsageError(
                f"nothing to go back to: a snapshot is certified {CERTAIN} steps after it was taken, and none is yet"
            )
        kept = self._certified[-1]
        kept.state.put_back()
        self._fresh.clear()
        self._since, self._due = 0, False
        return kept.memory

    def _take(self, kept: _Kept) -> None:
        room = self.megabytes * 1e6
        while len(self._certified) > 1 and self._bytes() + kept.state.num_bytes > room:
            self._certified.popleft()
        if self._bytes() + kept.state.num_bytes <= room:
            self._fresh.append(kept)

    def _bytes(self) -> int:
        return sum(kept.state.num_bytes for kept in (*self._certified, *self._fresh))
