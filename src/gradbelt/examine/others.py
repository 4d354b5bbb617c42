"""The batch of the onset beside others, all at the weights that came before it: was it the batch, or the weights?

A copy of the script goes on from the last healthy step with every update left out. Its own loop brings the batches and
its own loss makes their gradients, so nothing of either has to be known. Cost: seven plain steps, at most eleven; it is
not done where these would take long beside the way to the onset.

`Others` runs in the child; `beside_others` reads what it left. No torch is loaded by importing this.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt._types import Action, History, Keep, Measurement, RunRecord, Skip, StepRecord
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.belt.belt import Belt
    from gradbelt.supervise.patient import Patient

EVENT = "rows"  # the kind of event that holds what the rows of a batch make of its gradient
BESIDE = 5  # batches beside that of the onset
FEWEST = 3  # without which nothing is said


class Others:
    """From step `healthy` on every step is left out; what each row of the batches of steps `bad` - 1 and `bad` makes of
    the gradient is noted.

    Of a row it is the norm of what it puts into a layer times the norm of the gradient of what comes out, over all
    layers with a weight: the norm of the row's own gradient where the layer is a matrix applied once, and a bound on it
    that is loose by the same factor for all rows elsewhere. Rows are the first dimension of what meets the first
    weight; layers that are given another number of rows are left out. Batch normalisation mixes rows: an outlier's
    neighbours get a share of its gradient, so that it stands out less than it should.
    """

    name: ClassVar[str] = "others"
    SOURCE: ClassVar[str] = "Goodfellow 2015, arXiv 1510.01799: gradient norms of single examples"

    def __init__(self, healthy: int, bad: int) -> None:
        self._healthy, self._bad, self._now = healthy, bad, 0
        self._belt: Belt
        self._rows = 0  # of the batch in the pass that is going on; 0 before its first layer
        self._squares: Tensor | None = None  # (rows,)
        self._sizes: dict[int, list[float]] = {}  # step -> of each row

    def fit(self, patient: Patient) -> None:
        """Puts it on a patient that was woken before step `healthy`."""
        self._belt, self._now = patient.belt, patient.belt.step
        self._hold()
        self._belt.rules.insert(0, self)
        intercept(patient, dict.fromkeys(doors.WEIGHTS, self._meet))
        patient.after_backward.append(lambda _losses: self._passed())
        patient.at_step.append(self._stepped)
        patient.at_end.append(lambda: self._leave(patient))

    def decide(self, seen: Measurement, history: History) -> Action:
        """As a rule of the belt: no update is made any more."""
        return Skip(self.name) if seen.step >= self._healthy else Keep()

    def _meet(self, call: Call) -> Any:
        made = call.run()
        seen = doors.at_weight(call) if self._bad - 1 <= self._now <= self._bad else None
        if seen is None or seen[0] != 0 or not getattr(made, "requires_grad", False):
            return made
        given = seen[1]
        self._rows = self._rows or given.shape[0]
        if given.dim() > 1 and given.shape[0] == made.shape[0] == self._rows:
            squares = _squares(given)
            made.register_hook(lambda gradient: self._add(squares * _squares(gradient)))
        return made

    def _add(self, squares: Tensor) -> None:
        self._squares = squares if self._squares is None else self._squares + squares

    def _passed(self) -> None:
        """A backward pass is over."""
        if self._squares is not None:
            self._sizes.setdefault(self._now, []).extend(self._squares.sqrt().tolist())
        self._rows, self._squares = 0, None

    def _stepped(self, row: StepRecord) -> None:
        self._passed()  # of a loop that asks for its gradients without a backward
        self._now = row.step + 1
        self._hold()

    def _hold(self) -> None:
        """A gradient that is not finite reaches no rule: the guard leaves its step out."""
        if self._now >= self._healthy:
            self._belt.guard = True

    def _leave(self, patient: Patient) -> None:
        for step, sizes in self._sizes.items():
            found = largest(sizes)
            if found is not None:
                patient.event(EVENT, "one row beside the others", at=step, ratio=found[0], share=found[1])


def largest(sizes: Sequence[float]) -> tuple[float, float] | None:
    """The largest over the median, and its share of the sum; None of fewer than four, or where half of them are zero.

    >>> largest([1.0, 1.0, 1.0, 97.0])
    (97.0, 0.97)
    """
    if len(sizes) < 4 or not all(map(math.isfinite, sizes)) or not statistics.median(sizes) > 0:
        return None
    return max(sizes) / statistics.median(sizes), max(sizes) / math.fsum(sizes)


def until(healthy: int, bad: int) -> int:
    """The step by which `BESIDE` other batches have come by, both ends included."""
    return bad + max(0, BESIDE - (bad - 1 - healthy))


def beside_others(record: RunRecord, bad: int) -> dict[str, float]:
    """Fields of Evidence: how far the batch of step `bad`, or of the one before, stands out among the batches around
    it, and one row of it among its rows.

    The one before counts as well, because it is its update that `bad` met. Nothing where steps were not left out, for
    then the weights were not the same, and where too few other batches came by.
    """
    norms: dict[int, float] = {}
    for row in record.steps:
        if row.skipped:
            total = row.total if row.unclipped is None else row.unclipped
            norms[row.step] = math.hypot(norms.get(row.step, 0.0), total)
    own = {step: math.inf if math.isnan(norm) else norm for step, norm in norms.items() if bad - 1 <= step <= bad}
    rest = [norm for step, norm in norms.items() if step not in own and math.isfinite(norm)]
    if not own or len(rest) < FEWEST or not statistics.median(rest) > 0:
        return {}
    at = max(own, key=lambda step: own[step])
    found = {"batch_ratio": own[at] / statistics.median(rest)}
    for event in record.events:
        if event.kind == EVENT and event.data["at"] == at:
            found |= {"example_ratio": event.data["ratio"], "example_share": event.data["share"]}  # type: ignore[dict-item]
    return found


def _squares(values: Tensor) -> Tensor:
    """(rows,) of each row the sum of its squares."""
    return values.detach().double().reshape(values.shape[0], -1).square().sum(1)
