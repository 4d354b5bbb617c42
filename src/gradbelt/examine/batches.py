"""The batch of the onset: which element of it is unlike all that came before, down to its row and column."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import dataloader

from gradbelt._types import Element, StepRecord
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, is_transformed
from gradbelt.supervise.patient import Patient

BACK = 20  # steps before the onset whose batches say what is usual
BEFORE = 5  # batches without which nothing is
RARE = 0.2  # of the largest of all columns: one is judged as if that had been usual in it
OUTLYING = 10.0  # times the usual largest of its column

Columns = tuple[Tensor, Tensor]  # the largest and the median absolute value of each column


@dataclass(slots=True)
class Door:
    """The batches that came in at one place, up to now."""

    batches: list[Columns] = field(default_factory=list)

    def judge(self, rows: Tensor, columns: Columns) -> tuple[int, int, float | None, float | None] | None:
        """Row and column of the element that stands out most, how far, and its column's median size; None: none does.

        An element that is not finite stands out by itself; a finite one where it is ten times larger than what the
        batches before had as their largest in its column. Costs a pass over the batch.
        """
        usual = self._usual(columns[0].numel())
        bad = ~torch.isfinite(rows)
        if bool(bad.any()):
            row, column = divmod(int(bad.flatten().to(torch.uint8).argmax()), rows.shape[1])
            return row, column, None, None if usual is None else float(usual[1][column])
        if usual is None or len(self.batches) < BEFORE:
            return None
        floor = float(usual[0].max()) * RARE  # a column that was nearly always zero may be something for once
        ratio = rows.abs() / usual[0].clamp_min(floor)
        row, column = divmod(int(ratio.argmax()), rows.shape[1])
        far = float(ratio[row, column])
        return (row, column, far, float(usual[1][column])) if far > OUTLYING else None

    def _usual(self, width: int) -> Columns | None:
        alike = [batch for batch in self.batches if batch[0].numel() == width]
        if not alike:
            return None
        largest, median = (torch.stack(parts).median(0).values for parts in zip(*alike, strict=True))
        return largest, median


class Batches:
    """Watches data where it meets a weight or a loss, and keeps the first element of step `step` that stands out.

    The batch of the step before counts as well where that of `step` holds nothing: its update is what `step` met.
    """

    def __init__(self, patient: Patient, step: int) -> None:
        self._patient, self._step, self._now = patient, step, 0
        self._doors: dict[object, Door] = {}
        self._found: dict[int, Element] = {}
        self._picked: dict[int, tuple[weakref.ref[Tensor], Sequence[int]]] = {}  # rows that were taken by number
        self._loaded: Sequence[int] = ()  # numbers of the rows that a DataLoader handed out last
        self._watching = False
        patient.at_torch.append(self._fit)
        patient.at_step.append(self._stepped)

    def aim(self, step: int | None) -> None:
        """Looks for another step, or none: for a patient that was woken."""
        self._step = -1 if step is None else step

    @property
    def element(self) -> Element | None:
        """What stands out; None while nothing does."""
        return self._found.get(self._step, self._found.get(self._step - 1))

    def _fit(self, patient: Patient) -> None:
        """Begins to watch, once it is soon enough: nothing is slowed down before."""
        if self._watching or self._now < self._step - BACK:
            return
        self._watching = True
        enter, aim = partial(self._met, "input"), partial(self._met, "target")
        taken = dict.fromkeys(("__getitem__", "index_select"), self._take)
        intercept(
            patient,
            {**dict.fromkeys(doors.WEIGHTS, enter), **dict.fromkeys((*doors.LOSSES, *doors.DIFFERENCES), aim), **taken},
        )
        self._follow_loaders(patient)

    def _stepped(self, row: StepRecord) -> None:
        self._now = row.step + 1
        self._fit(self._patient)

    def _met(self, name: str, call: Call) -> Any:
        if self._step - BACK <= self._now <= self._step and call.where is not None and not is_transformed():
            seen: Any = doors.at_weight(call) if name == "input" else doors.at_loss(call)
            if seen is not None and not seen[1].requires_grad and seen[1].numel() and torch.is_grad_enabled():
                self._look(name, call, seen[1], id(seen[2]) if name == "input" else call.where)
        return call.run()

    @torch.no_grad()
    def _look(self, name: str, call: Call, data: Tensor, key: object) -> None:
        rows = _rows(data)
        columns = rows.abs().amax(0), rows.abs().median(0).values
        door = self._doors.setdefault(key, Door())
        if self._now >= self._step - 1 and self._now not in self._found:
            judged = door.judge(rows, columns)
            if judged is not None:
                self._found[self._now] = self._element(name, call, data, rows, *judged)
                return
        if bool(torch.isfinite(columns[0]).all()):
            door.batches.append(columns)

    def _element(
        self, name: str, call: Call, data: Tensor, rows: Tensor, row: int, column: int, ratio: float | None,
        usual: float | None,
    ) -> Element:  # fmt: skip
        each = rows.shape[0] // (data.shape[0] if data.dim() else 1)  # rows that one item of the batch has
        item = row // max(1, each)
        return Element(
            tensor=name, shape=tuple(data.shape), row=item, column=column, value=float(rows[row, column]),
            usual=usual, ratio=ratio, index=self._index(data, item), where=call.where,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------- where in the data set it is

    def _index(self, data: Tensor, item: int) -> int | None:
        """Which row of the data set it is, where the batch is a part of it, was picked from it, or was loaded."""
        picked = self._picked.get(id(data))
        if picked is not None and picked[0]() is data and item < len(picked[1]):
            return int(picked[1][item])
        base = data._base
        if base is not None and data.dim() and base.dim() == data.dim() and base.shape[1:] == data.shape[1:]:
            offset = data.storage_offset() - base.storage_offset() + item * data.stride(0)
            return offset // base.stride(0) if base.stride(0) else None
        if data.dim() and len(self._loaded) == data.shape[0]:
            return int(self._loaded[item])
        return None

    def _take(self, call: Call) -> Any:
        result = call.run()
        numbers = call.args[-1] if len(call.args) > 1 else None
        if isinstance(result, Tensor) and self._step - 1 <= self._now <= self._step:
            if isinstance(numbers, Tensor) and numbers.dim() == 1 and not numbers.is_floating_point():
                numbers = (numbers.nonzero().flatten() if numbers.dtype == torch.bool else numbers).tolist()
            if isinstance(numbers, list) and numbers and all(isinstance(number, int) for number in numbers):
                self._picked[id(result)] = weakref.ref(result), numbers
        return result

    def _follow_loaders(self, patient: Patient) -> None:
        """A loader asks for the numbers of a batch, then hands the batch out: in the same order, with workers too."""
        loads = dataloader._BaseDataLoaderIter
        asked: weakref.WeakKeyDictionary[Any, deque[Any]] = weakref.WeakKeyDictionary()
        next_index: Callable[[Any], Any] = loads._next_index
        following: Callable[[Any], Any] = loads.__next__

        def ask(loader: Any) -> Any:
            numbers = next_index(loader)
            asked.setdefault(loader, deque()).append(numbers)
            return numbers

        def hand_out(loader: Any) -> Any:
            batch = following(loader)
            numbers = asked[loader].popleft() if asked.get(loader) else ()
            mapped = loader._dataset_kind == dataloader._DatasetKind.Map
            self._loaded = numbers if mapped and isinstance(numbers, list | tuple) else ()
            return batch

        for name, ours, theirs in (("_next_index", ask, next_index), ("__next__", hand_out, following)):
            setattr(loads, name, ours)
            patient.around.callback(setattr, loads, name, theirs)


def _rows(data: Tensor) -> Tensor:
    """A batch as rows and columns: features are last, the channels of pictures second.

    >>> _rows(torch.zeros(8)).shape, _rows(torch.zeros(2, 5, 3)).shape, _rows(torch.zeros(2, 3, 4, 4)).shape
    (torch.Size([8, 1]), torch.Size([10, 3]), torch.Size([32, 3]))
    """
    values = data.detach().float()
    if values.dim() < 2:
        return values.reshape(-1, 1)
    if values.dim() > 3:
        values = values.movedim(1, -1)
    return values.reshape(-1, values.shape[-1])
