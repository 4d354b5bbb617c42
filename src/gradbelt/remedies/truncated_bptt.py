"""The gradient through time ends after so many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, learns, note

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient

AGE = "_gradbelt_age"
FAR = 40  # nodes of the graph between one call of a cell and its next


@dataclass(frozen=True, slots=True)
class TruncatedBptt:
    """The hidden state of a recurrent net is cut from its past every `value` time steps; what is computed stays the
    same.

    RNN, LSTM and GRU run over their sequence in pieces; a cell in a loop, or a layer that is fed its own last output,
    is cut at every such call since the last backward; a state carried over from a batch whose backward is done is cut
    there too. Shorter sequences are left as they are, to the bit. Bidirectional and packed layers, and several layers
    with dropout between them, are left alone: in pieces they would compute something else.
    """

    value: float = 35.0

    name: ClassVar[str] = "truncated_bptt"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    SOURCE: ClassVar[str] = "Williams and Peng 1990, Neural Computation 2(4); Sutskever 2013 (thesis), section 2.8.6"
    EDIT: ClassVar[str] = "h = h.detach() every {value} time steps, and between batches"

    def fit(self, patient: Patient) -> None:
        import torch

        deeds = patient.deeds(self.name, otherwise=f"no recurrent layer was walked back more than {self.value:g} steps")
        length = max(1, int(self.value))
        age = 0  # backward passes so far
        calls: dict[int, tuple[int, int, Any]] = {}  # weight -> age, calls since, node of its last output

        def fresh(hidden: Any, where: str | None) -> Any:
            """Without the past that a backward has been through already."""
            states = hidden if isinstance(hidden, tuple | list) else (hidden,)
            if any(isinstance(s, torch.Tensor) and s.requires_grad and getattr(s, AGE, age) < age for s in states):
                deeds("state of an earlier batch cut", where)
                return _cut(hidden)
            return hidden

        def aged(result: Any) -> Any:
            for state in result if isinstance(result, tuple | list) else (result,):
                setattr(state, AGE, age)
            return result

        def layer(call: Call) -> Any:
            if len(call.args) != 9 or not isinstance(call.args[3], bool):
                return call.run()  # packed
            x, hidden, weights, biases, layers, dropout, training, both, batch_first = call.args
            if not learns(call.args):
                return call.run()
            hidden = fresh(hidden, call.where)
            axis = 1 if batch_first else 0
            if x.shape[axis] <= length or both or (layers > 1 and dropout and training):
                return aged(call.put(1, hidden))
            note(deeds, "run in pieces", call, x, axis=axis, kind=call.name)
            outputs = []
            for piece in x.split(length, axis):
                found = call.func(piece, hidden, weights, biases, layers, dropout, training, both, batch_first)
                output, *rest = found
                hidden = _cut(tuple(rest) if len(rest) > 1 else rest[0])
                outputs.append(output)
            return aged((torch.cat(outputs, axis), *rest))

        def turn(weight: Tensor) -> tuple[int, Any]:
            """How often this weight has been called since the last backward, and what came out the last time."""
            then, count, node = calls.get(id(weight), (age, 0, None))
            return (count if then == age else 0), node

        def cell(call: Call) -> Any:
            hidden, weight = call.args[1], call.args[2]
            if not learns(call.args):
                return call.run()
            count, _ = turn(weight)
            if count and count % length == 0:
                note(deeds, "cut in a loop", call, hidden, kind=call.name)
                hidden = _cut(hidden)
            result = aged(call.put(1, fresh(hidden, call.where)))
            calls[id(weight)] = age, count + 1, None
            return result

        def linear(call: Call) -> Any:
            found = doors.at_weight(call)
            if found is None or not learns(call.args):
                return call.run()
            place, x, weight = found
            count, node = turn(weight)
            due = count == 0 or count % length == 0  # the first call after a backward may be given an old state
            if due and node is not None and x.requires_grad and _stems_from(x, node):
                note(deeds, "cut in a loop" if count else "state of an earlier batch cut", call, x, kind=call.name)
                x = x.detach()
            result = call.put(place, x)
            calls[id(weight)] = age, count + 1, result.grad_fn
            return result

        def after_backward(_losses: Sequence[Tensor]) -> None:
            nonlocal age
            age += 1

        intercept(
            patient,
            {
                **dict.fromkeys(doors.RECURRENT, layer),
                **dict.fromkeys(doors.CELLS, cell),
                **dict.fromkeys(("linear", *doors.PRODUCTS), linear),
            },
        )
        patient.after_backward.append(after_backward)


def _cut(hidden: Any) -> Any:
    if isinstance(hidden, tuple | list):
        return type(hidden)(state.detach() for state in hidden)
    return hidden.detach()


def _stems_from(x: Tensor, node: Any) -> bool:
    """Whether `x` was computed from the output of `node`, a few operations ago."""
    todo: list[Any] = [x.grad_fn]
    seen: set[Any] = set()
    while todo and len(seen) < FAR:
        at = todo.pop(0)
        if at is node:
            return True
        if at is not None and at not in seen:
            seen.add(at)
            todo.extend(following for following, _ in at.next_functions)
    return False
