"""A mask that leaves nothing over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise.calls import Call, intercept, is_float

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.supervise.patient import Patient

LOW = -1e4  # what half precision can still hold

INSIDE = "attention in a layer"  # of torch's own, whose softmax is on no line of the user's


@dataclass(frozen=True, slots=True)
class MaskFix:
    """Where a mask leaves nothing over, the answer is zero with no gradient, not nan.

    A softmax over nothing but -inf gives zeros, in attention as well; so do the mean of no element, 0 / 0, a cross
    entropy that ignores every target, and zero times the -inf of a mask. Rows with anything left in them keep value and
    gradient to the bit.
    """

    name: ClassVar[str] = "mask_fix"
    invasive: ClassVar[Invasive] = Invasive.NUMERICS
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "torch.nn.functional.scaled_dot_product_attention, which gives zeros to fully masked rows"
    EDIT: ClassVar[str] = "scores.masked_fill(dead, 0).softmax(-1).masked_fill(dead, 0); a count clamped to 1"
    EDITS: ClassVar[dict[str, str]] = {
        INSIDE: "give it a mask that leaves something over in every row, mask & ~dead with dead = mask.all(-1, "
        "keepdim=True) where True hides, and set what comes out of the rows that were dead to zero"
    }

    def fit(self, patient: Patient) -> None:
        import torch
        from torch.nn import functional

        deeds = patient.deeds(self.name, otherwise="no mask left a row empty")
        inside = False  # a layer of torch's that attends

        def softmax(call: Call) -> Any:
            x, dim = call.args[0], call.get(1, "dim")
            dead = _dead(x, dim)
            if dead is None or call.where is None:
                return call.run()
            deeds(INSIDE if inside else call.name, call.where)
            answer = LOW if call.name == "logsumexp" else 0.0
            result = call.run(x.masked_fill(dead, 0.0))
            if call.name == "logsumexp" and result.dim() < x.dim():
                dead = dead.squeeze(dim)
            return result.masked_fill(dead, answer)

        def attention(call: Call) -> Any:
            """The rows of a mask that allow nothing allow all, and what they attended to is thrown away."""
            mask = call.get(3, "attn_mask")
            if not isinstance(mask, torch.Tensor):
                return call.run()
            dead = ~mask.any(-1, keepdim=True) if mask.dtype == torch.bool else _dead(mask, -1)
            if dead is None or not bool(dead.any()) or call.where is None:
                return call.run()
            deeds(INSIDE if inside else "attention", call.where)
            full = mask | dead if mask.dtype == torch.bool else mask.masked_fill(dead, 0.0)
            result = call.put(3, full) if len(call.args) > 3 else call.run(attn_mask=full)
            return result.masked_fill(dead, 0.0)

        def multi_head(call: Call) -> Any:
            """Its softmax is called by torch's own code, which no mode sees: put in place while it runs."""
            nonlocal inside
            plain, inner = functional.softmax, functional.scaled_dot_product_attention

            def seen(of: Any, act: Any) -> Any:
                return lambda *args, **kwargs: act(Call(of, args, kwargs, call.frame))

            inside = True
            functional.softmax = seen(plain, softmax)
            functional.scaled_dot_product_attention = seen(inner, attention)
            try:
                return call.run()
            finally:
                functional.softmax, functional.scaled_dot_product_attention = plain, inner
                inside = False

        def division(call: Call) -> Any:
            above, below = call.args[:2]
            if not is_float(above) or not isinstance(below, torch.Tensor) or "rounding_mode" in call.kwargs:
                return call.run()
            if not bool((empty := below == 0).any()):
                return call.run()
            empty, top = torch.broadcast_tensors(empty, above)  # type: ignore[no-untyped-call]
            if not bool((empty & (top == 0)).any()) or call.where is None:
                return call.run()
            deeds("0 / 0", call.where)
            # only where nothing lies over nothing: one over zero is another fault
            nothing = empty & (top == 0)
            one = torch.ones((), dtype=below.dtype, device=below.device)
            return call.run(torch.where(nothing, 0.0, above), torch.where(nothing, one, below))

        def mean(call: Call) -> Any:
            x = call.args[0]
            result = call.run()
            if not is_float(x) or x.numel() or not result.numel() or call.where is None:
                return result
            deeds("mean of nothing", call.where)
            return (
                result.masked_fill(torch.isnan(result), 0.0)
                if not x.requires_grad
                else x.sum() + result.new_zeros(result.shape)
            )

        def product(call: Call) -> Any:
            one, other = call.args[:2]
            if isinstance(one, int | float):
                one, other = other, one
            if isinstance(other, float) and math.isinf(other) and isinstance(one, torch.Tensor):
                nothing = one == 0
                if not bool(nothing.any()) or call.where is None:
                    return call.run()
                deeds("0 * inf", call.where)
                return call.run(*(torch.where(nothing, 1, a) if a is one else a for a in call.args[:2])).masked_fill(
                    nothing, 0.0
                )
            if not (is_float(one) and is_float(other)):
                return call.run()
            if bool(torch.isfinite(one).all()) and bool(torch.isfinite(other).all()):
                return call.run()
            left, right = torch.broadcast_tensors(one, other)  # type: ignore[no-untyped-call]
            nothing = ((left == 0) & torch.isinf(right)) | ((right == 0) & torch.isinf(left))
            if not bool(nothing.any()) or call.where is None:
                return call.run()
            deeds("0 * inf", call.where)
            return call.run(torch.where(nothing, 0.0, left), torch.where(nothing, 0.0, right))

        def cross_entropy(call: Call) -> Any:
            target, reduction = call.get(1, "target"), call.kwargs.get("reduction", "mean")
            if reduction != "mean" or not isinstance(target, torch.Tensor) or target.is_floating_point():
                return call.run()
            if bool((target != call.kwargs.get("ignore_index", -100)).any()) or call.where is None:
                return call.run()
            deeds("every target ignored", call.where)
            return call.run(reduction="sum")

        softmaxes = ("softmax", "log_softmax", "logsumexp")
        intercept(
            patient,
            {
                **dict.fromkeys(softmaxes, softmax),
                **dict.fromkeys(("div", "true_divide", "divide"), division),
                **dict.fromkeys(("mul", "multiply", "__rmul__"), product),
                **dict.fromkeys(("cross_entropy", "nll_loss"), cross_entropy),
                "scaled_dot_product_attention": attention,
                "multi_head_attention_forward": multi_head,
                "mean": mean,
            },
        )


def _dead(x: Any, dim: Any) -> Tensor | None:
    """Which rows along `dim` hold nothing but -inf, that dimension kept; None where there are none."""
    import torch

    if not is_float(x) or not isinstance(dim, int) or not x.dim():
        return None
    dead = torch.isneginf(x).all(dim, keepdim=True)
    return dead if bool(dead.any()) else None
