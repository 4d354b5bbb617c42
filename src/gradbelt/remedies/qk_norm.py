"""Queries and keys of one size, so that attention's logits can't run away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import replace
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Call, Course

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class QkNorm:
    """Queries and keys are divided by their root mean square, head by head, before their product: no logit exceeds the
    square root of a head's size.

    For attention whose logits grow until each row looks at one key only. Acts on nn.MultiheadAttention, on
    F.scaled_dot_product_attention, and on attention written by hand as softmax(q @ k) @ v, which the model's first
    forward shows. einsum, fused attention of other libraries and compiled models are out of reach. The norms have no
    parameters of their own.
    """

    name: ClassVar[str] = "qk_norm"
    invasive: ClassVar[Invasive] = Invasive.ARCHITECTURE
    SOURCE: ClassVar[str] = "Henry et al. 2020, arXiv 2010.04245; Dehghani et al. 2023 (ViT-22B), arXiv 2302.05442"
    EDIT: ClassVar[str] = "q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:]) before their product"

    def fit(self, patient: Patient) -> None:
        import torch
        from torch.nn import functional
        from torch.overrides import TorchFunctionMode

        from gradbelt.supervise.rehearse import PRODUCTS, NoRehearsal, plain, rehearse, site
        from gradbelt.supervise.sites import here

        heads: ContextVar[int] = ContextVar("heads")  # of the nn.MultiheadAttention that is running
        places: set[tuple[str, str]] = set()  # products by name and line
        deeds = patient.deeds(self.name, otherwise="no attention that can be seen", soon=True)

        def attend(original: Callable[..., Any], query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
            deeds("queries and keys normed", here())
            return original(unit(query, -1), unit(key, -1), *args, **kwargs)

        def multihead(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            token = heads.set(kwargs["num_heads"] if "num_heads" in kwargs else args[4])
            try:
                return original(*args, **kwargs)
            finally:
                heads.reset(token)

        def project(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            deeds("queries and keys normed inside a layer", here())
            query, key, value = original(*args, **kwargs)
            return _by_head(query, heads.get()), _by_head(key, heads.get()), value

        class Unit(TorchFunctionMode):
            def __torch_function__(
                self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
            ) -> Any:
                if places and (name := plain(getattr(func, "__name__", ""))) in PRODUCTS and (name, site()) in places:
                    deeds("queries and keys normed", here())
                    args = (unit(args[0], -1), unit(args[1], -2), *args[2:])
                return func(*args, **(kwargs or {}))

        def look(root: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
            with suppress(NoRehearsal):
                places.update((call.name, call.site) for call in by_hand(rehearse(root, args, kwargs)))

        replace(patient, functional, "scaled_dot_product_attention", attend)
        replace(patient, functional, "multi_head_attention_forward", multihead)
        replace(patient, functional, "_in_projection_packed", project)
        replace(patient, functional, "_in_projection", project)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # evaluation takes it, and it passes all of these by
        patient.around.callback(torch.backends.mha.set_fastpath_enabled, fast)
        patient.enter(Unit())
        patient.at_call.append(look)


def unit(x: Tensor, dim: int) -> Tensor:
    """x over its root mean square along `dim`."""
    size = x.float().square().mean(dim, keepdim=True).add(EPS).rsqrt()
    return x * size.to(x.dtype)


def _by_head(x: Tensor, heads: int) -> Tensor:
    return unit(x.view(*x.shape[:-1], heads, -1), -1).flatten(-2)


def by_hand(course: Course) -> list[Call]:
    """Products of two computed values that a softmax turns into weights for another product. A line that has other
    products as well stays as it is."""
    from gradbelt.supervise.rehearse import PRODUCTS

    products = [call for call in course.calls if call.name in PRODUCTS and not call.holds and len(call.operands) == 2]
    found: set[Call] = set()
    for softmax in course.calls:
        if softmax.name == "softmax" and any(each.name in PRODUCTS for each in softmax.followers()):
            call: Call | None = softmax
            while call is not None and call not in products:
                call = next((operand for operand in call.operands if operand is not None), None)
                if call is not None and call.module is not None:
                    call = None
            found |= {call} if call is not None else set()
    mixed = {(call.name, call.site) for call in products if call not in found}
    return [call for call in products if call in found and (call.name, call.site) not in mixed]
