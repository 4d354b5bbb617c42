"""The doors that data comes in by: where numbers meet a weight, and where targets meet a loss.

A door is known by the weight behind it, so it is found again whatever method of the model is called, and in evaluation.
Data is what no gradient flows into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradbelt.supervise.calls import Call, is_float

if TYPE_CHECKING:
    from torch import Tensor

RECURRENT = ("rnn_tanh", "rnn_relu", "lstm", "gru")
CELLS = ("rnn_tanh_cell", "rnn_relu_cell", "lstm_cell", "gru_cell")
CONVOLUTIONS = tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
PRODUCTS = ("matmul", "mm", "__rmatmul__", "bmm", "addmm")
WEIGHTS = ("linear", "bilinear", *CONVOLUTIONS, *PRODUCTS, *RECURRENT, *CELLS)
REGRESSIONS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
LOSSES = (
    *REGRESSIONS, "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss",
    "gaussian_nll_loss",
)  # fmt: skip
DIFFERENCES = ("sub", "subtract", "__rsub__")


def at_weight(call: Call) -> tuple[int, Tensor, Tensor] | None:
    """(place, what comes in, the weight it meets) for a call in WEIGHTS; None where no learnt weight takes part."""
    import torch

    for place in (0,) if call.name not in PRODUCTS else range(min(3, len(call.args))):
        value: Any = call.args[place] if place < len(call.args) else None
        if not is_float(value) or isinstance(value, torch.nn.Parameter) or (value.is_leaf and value.requires_grad):
            continue
        weight = next((t for t in call.tensors if t is not value and t.requires_grad and t.is_leaf), None)
        if weight is not None:
            return place, value, weight
    return None


def at_loss(call: Call) -> tuple[int, Tensor] | None:
    """(place, target) for a call in LOSSES or DIFFERENCES: of two operands the one that no gradient flows into."""
    import torch

    if len(call.args) < 2 or not torch.is_grad_enabled():
        return None
    one, other = call.args[:2]
    if not (is_float(one) and is_float(other)) or one.requires_grad == other.requires_grad:
        return None
    return (1, other) if one.requires_grad else (0, one)
