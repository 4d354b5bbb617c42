"""A mean where the loss is a sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise.calls import Call, intercept, learns

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient

SUMMED = "_gradbelt_summed"
BY_CLASS = ("cross_entropy", "nll_loss")
FUNCTIONS = (
    *BY_CLASS, "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss", "gaussian_nll_loss", "ctc_loss",
    "hinge_embedding_loss", "margin_ranking_loss", "soft_margin_loss", "triplet_margin_loss",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LossReduction:
    """A loss that is a sum has the gradient of its mean; the number that the script sees and prints stays the sum.

    Found where the loss is `reduction="sum"` or ends in `.sum()`; a sum of several such is divided by their common
    number of rows, so their weights among each other stay. A sum that the script divides by anything is taken to be
    meant, and losses added up in a Python loop are not seen.
    """

    name: ClassVar[str] = "loss_reduction"
    invasive: ClassVar[Invasive] = Invasive.CONFIGURATION
    SOURCE: ClassVar[str] = "Goyal et al. 2017, arXiv 1706.02677, 2.1: the gradient of a sum grows with the batch"
    EDIT: ClassVar[str] = 'reduction="mean"; .mean() for .sum()'

    def fit(self, patient: Patient) -> None:
        import torch

        deeds = patient.deeds(self.name, otherwise="the loss is no sum over a batch", soon=True)

        def summed(call: Call) -> Any:
            if call.name == "sum":
                value = call.args[0]
                whole = call.get(1, "dim") is None and isinstance(value, torch.Tensor) and learns(value)
                return _note(call.run(), value.numel(), _rows(value), call.where) if whole else call.run()
            if call.kwargs.get("reduction") != "sum" or not learns(call.args):
                return call.run()
            of = call.get(1, "target") if call.name in BY_CLASS else call.args[0]
            count = of.numel()
            if call.name in BY_CLASS and not of.is_floating_point():
                count = int((of != call.kwargs.get("ignore_index", -100)).sum())
            return _note(call.run(), count, _rows(of), call.where)

        def carried(call: Call) -> Any:
            result = call.run()
            given = [arg for arg in call.args if isinstance(arg, torch.Tensor)]
            tags = [tag for arg in given if (tag := getattr(arg, SUMMED, None)) is not None]
            factor = next((abs(arg) for arg in call.args if isinstance(arg, int | float)), 1.0)
            if "mul" in call.name and tags and factor <= 2 / tags[0][1]:
                return result  # times 1 / rows: a mean already
            if tags and isinstance(result, torch.Tensor) and result.numel() == 1:
                if len(tags) == 1:
                    setattr(result, SUMMED, tags[0])
                elif tags[0][1] == tags[1][1]:
                    setattr(result, SUMMED, (tags[0][1], tags[0][1], None))
            return result

        def at_backward(losses: Sequence[Tensor]) -> None:
            for loss in losses:
                count, _, where = getattr(loss, SUMMED, (1, 1, None))
                if count > 1 and loss.requires_grad:
                    handles.append(loss.register_hook(_divided(count)))  # type: ignore[no-untyped-call]
                    deeds("sum made a mean" if where else "sums divided by their rows", where)

        def after_backward(_losses: Sequence[Tensor]) -> None:
            while handles:
                handles.pop().remove()

        handles: list[Any] = []
        scaled = dict.fromkeys(("add", "__radd__", "sub", "__rsub__", "neg", "mul", "__rmul__"), carried)
        intercept(patient, {**dict.fromkeys(("sum", *FUNCTIONS), summed), **scaled})
        patient.at_backward.append(at_backward)
        patient.after_backward.append(after_backward)


def _divided(count: int) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient / count


def _rows(value: Tensor) -> int:
    return value.shape[0] if value.dim() else 1


def _note(total: Tensor, elements: int, rows: int, where: str | None) -> Tensor:
    """The sum, remembering of how many elements and rows it is."""
    setattr(total, SUMMED, (elements, rows, where))
    return total
