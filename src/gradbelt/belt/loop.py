"""One step after the other: what is read of it goes through the stages, and what they made of it is remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradbelt._types import STREAK, Action, Activation, History, Measurement, StepRecord, Verdict
from gradbelt.belt.account import Account
from gradbelt.belt.apply import Fold, act
from gradbelt.belt.beside import Beside, Number, beside
from gradbelt.belt.buckle import Buckle
from gradbelt.belt.decide import with_notes
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.episodes import news
from gradbelt.belt.forward import Forward
from gradbelt.belt.judge import judge
from gradbelt.belt.late import Late, Lateness, act_late, begin
from gradbelt.belt.losses import Losses
from gradbelt.belt.measure import Reading, measure, read
from gradbelt.belt.memory import Memory
from gradbelt.belt.moved import Moved
from gradbelt.belt.record import record
from gradbelt.belt.updates import slow
from gradbelt.clip import Chain, Rule, as_rule
from gradbelt.clip.rule import Notes
from gradbelt.recover.ring import Snapshots
from gradbelt.symptoms.scale_spiral import never_steps


class Loop:
    """The stages, called in their order, and what lives between steps. When that is, is for `Belt` to say."""

    def __init__(
        self,
        *,
        clip: Rule | Chain | float | str | None = None,
        guard: bool = False,
        wait: bool | None = True,
        write: Callable[[StepRecord], None] | None = None,
        name: Callable[[Sequence[Tensor]], tuple[str, ...]] | None = None,
        tell: Callable[[Verdict], None] | None = None,
        forward: Forward | None = None,
    ) -> None:
        rule = as_rule(clip)
        self.rules: list[Rule] = [] if rule is None else list(rule) if isinstance(rule, Chain) else [rule]
        self.guard = guard
        self.ready: list[Callable[[Sequence[Tensor]], None]] = []  # called with the parameters before they are measured
        self.advises = False  # keeps account of what clipping does, for `Belt.advice`
        self.buckle: Buckle | None = None  # looks whether clipping is put on right, in the first steps
        self.snapshots: Snapshots | None = None  # to go back to
        self.passes: Callable[[int], bool] = lambda _step: False  # steps that are counted, and nothing more
        self.last: StepRecord | None = None
        self.unclipped: Tensor | None = None  # what the script's own clip_grad_norm_ answered since the last step
        self.scaler: GradScaler | None = None  # whose scale is recorded; None where none is known
        self.forward = forward or Forward()  # what is seen of forward passes; nothing, unless one is given
        self._memory = Memory()
        self._accounts: dict[int, Account] = {}
        self._losses = Losses()
        self._late = Lateness(wait)
        self._moved = Moved()
        self._write, self._tell, self._name = write, tell, name or _number
        self._named: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        self._began = time.perf_counter()
        self.num_left_out = 0  # steps that a loss scaler left out so far,
        self.streak = 0  # and in a row

    def catch_up(self) -> None:
        """Every step that has taken place is on record, judged and learnt from; waits for those still under way."""
        for late in self._late.due():
            self._arrive(late)

    def _passes_over(self, index: int) -> bool:
        """Counts a step that is not looked at; False, and nothing is counted, where it is to be looked at."""
        if not self.passes(self._memory.step_of(index)):
            return False
        self._memory.begin(index)
        self._memory.calls += 1
        self._losses.take()
        self.unclipped = None
        return True

    def _look(
        self, index: int, held: list[Tensor], optimizer: Optimizer | None = None, into: Fold | None = None
    ) -> tuple[StepRecord, Action] | None:
        """One step through all stages; None where a loss scaler will skip it."""
        for ready in self.ready:
            ready(held)
        now = time.perf_counter() - self._began
        shown = self.forward.end(index)
        arrived = self._beside(optimizer).sent()
        followed = self._memory.is_followed(index)
        reading = read(held, weights=self._memory.is_sampled(index), change=self._moved.since(index, held))
        known = arrived()
        if known.found_inf:
            self._leave_out(known.losses)
            return None
        scale = float(known.scale)
        held_back = partial(slow, optimizer, scale=scale)
        done = partial(act, self.rules, held, guard=self.guard, scale=scale, fold=into, slow=held_back)
        row, action = self._conclude(index, held, reading, known, self._names(index, held), now, shown, done)
        if not row.skipped:  # else the weights stay, and the next step is told of the same update
            self._moved.take(index, held if followed else ())
        return row, action

    def _go_on(self, index: int, held: list[Tensor], optimizer: Optimizer, limit: float) -> None:
        """One step that is decided on the device; the host gets to know of it later, in `_arrive`."""
        for ready in self.ready:
            ready(held)
        self._late.add(
            begin(
                optimizer,
                held,
                self._beside(optimizer),
                limit=limit,
                guard=self.guard,
                weights=self._memory.is_sampled(index),
                index=index,
                names=self._names(index, held),
                time=time.perf_counter() - self._began,
                shown=self.forward.end(index),
            )
        )

    def _arrive(self, late: Late) -> None:
        """The rest of `_look`, for a step that has taken place by `_go_on`."""
        reading, known, refused = late.read()
        if known.found_inf:
            self._leave_out(known.losses)
            return
        done = partial(act_late, self.rules, refused, guard=self.guard)
        self._close(self._conclude(late.index, (), reading, known, late.names, late.time, late.shown, done)[0])

    def _beside(self, optimizer: Optimizer | None) -> Beside:
        """What is known of the step that takes place now beside its gradients."""
        unclipped, self.unclipped = self.unclipped, None
        return beside(optimizer, self._losses.take(), unclipped, self.scaler)

    def _conclude(
        self,
        index: int,
        held: Sequence[Tensor],
        reading: Reading,
        known: Beside,
        names: tuple[str, ...],
        now: float,
        shown: Callable[[], tuple[Activation, ...]],
        done: Callable[[Measurement, History], tuple[Action, Measurement, Notes]],
    ) -> tuple[StepRecord, Action]:
        """From what was read to what was done about it, and what is learnt."""
        self.streak = 0
        memory, history = self._memory, self._memory.history(index)
        step = memory.begin(index)
        seen = measure(reading, known, names, call=memory.calls, step=step, optimizer=index, activations=shown())
        memory.course = advance(memory.course, seen)
        verdict = judge(derive(seen, history, memory.course), history)
        account = self._accounts.get(index)
        if account is not None:
            account.before(held, seen, float(known.scale))
        action, after, notes = done(seen, history)
        if account is not None:
            account.add(held, seen, after, action, rules=len(self.rules), scale=float(known.scale))
        if self.buckle is not None:
            self.buckle.looked(self.rules, seen, action)
        memory.keep(index, with_notes(learn(history, seen, action, after.total), notes), seen.total)
        memory.calls += 1
        self._say(verdict, seen.step)
        return record(seen, after, action, time=now), action

    def _leave_out(self, losses: Mapping[str, Sequence[Number]] | None = None) -> None:
        """A loss scaler leaves this step out: it doesn't count, and its losses are no part of the next step's."""
        self._losses.leave_out(losses)
        self.num_left_out += 1
        self.streak += 1
        if self.streak == STREAK:
            step = self._memory.next_step
            self._say((never_steps(step),), step)

    def _say(self, verdict: Verdict, step: int) -> None:
        if self.snapshots is not None:
            self.snapshots.heard(verdict)
        new, self._memory.episodes = news(verdict, step, self._memory.episodes)
        if new and self._tell is not None:
            self._tell(new)

    def _close(self, row: StepRecord | None) -> None:
        if row is None:
            return
        self.last = row
        if self._write is not None:
            self._write(row)

    def _names(self, index: int, held: list[Tensor]) -> tuple[str, ...]:
        key = tuple(map(id, held))
        known = self._named.get(index)
        if known is None or known[0] != key:
            known = self._named[index] = (key, self._name(held))
        return known[1]


def _number(parameters: Sequence[Tensor]) -> tuple[str, ...]:
    return tuple(f"parameter {i}" for i in range(len(parameters)))
