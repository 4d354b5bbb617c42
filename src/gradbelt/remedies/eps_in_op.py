"""The safe form of an operation that has a pole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise.calls import Call, intercept, is_float, learns

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from gradbelt.supervise.patient import Patient

LOGIT = "_gradbelt_logit"
DIVISIONS = ("div", "true_divide", "divide", "__rdiv__", "__rtruediv__", "reciprocal")
LOGS = ("log", "log2", "log10")
INVERSE = ("acos", "arccos", "asin", "arcsin", "atanh", "arctanh")
GROWING = {"exp": 1.0, "expm1": 1.0, "sinh": 1.0, "cosh": 1.0, "exp2": math.log(2)}
UNARY = (*LOGS, "log1p", "sqrt", "rsqrt", *INVERSE, "acosh", "arccosh", *GROWING)
SHAPES = ("squeeze", "unsqueeze", "view", "reshape", "flatten")


@dataclass(frozen=True, slots=True)
class EpsInOp:
    """What goes into log, sqrt, a division and their like is kept `value` away from the pole; nothing else changes.

    Where numbers broke, and wherever else a gradient flows into such an operation; everywhere in the user's code where
    that line is not known. An element nearer than `value` is moved to that distance and gets no gradient, so no inf
    meets a zero in backward; others keep value and gradient to the bit. The log of a sigmoid or softmax is computed
    from its logits, and so is the cross entropy of a sigmoid: there the gradient lives on. exp ends before it
    overflows.
    """

    value: float = 1e-6

    name: ClassVar[str] = "eps_in_op"
    invasive: ClassVar[Invasive] = Invasive.NUMERICS
    midway: ClassVar[bool] = True
    SOURCE: ClassVar[str] = "Higham 2002, Accuracy and Stability of Numerical Algorithms, section 1.18"
    EDIT: ClassVar[str] = "x.clamp_min({value}) inside the log, the root or under the line; logits for a log of sigmoid"
    EDITS: ClassVar[dict[str, str]] = dict.fromkeys(GROWING, "an upper bound inside exp, x.clamp_max(79) in float32")

    def fit(self, patient: Patient) -> None:
        import torch
        from torch.nn import functional

        deeds = patient.deeds(self.name, otherwise="no operation came near a pole")
        origin = patient.plan.origin

        def here(call: Call, what: str) -> bool:
            """Whether it is one to change; if so, it is counted."""
            where = call.where
            mine = where is not None and (origin is None or where == origin or learns(call.args, call.kwargs))
            if mine:
                deeds(what, where)
            return mine

        def unary(call: Call) -> Any:
            x = call.args[0]
            if not is_float(x):
                return call.run()
            low, high = bounds(call.name, x.dtype, self.value)
            logit: Callable[[str], Tensor] | None = getattr(x, LOGIT, None) if call.name in LOGS else None
            what = call.name if logit is None else f"{call.name} from logits"
            if not _outside(x, low, high) or not here(call, what):
                return call.run()
            if high is not None:
                deeds.facts[what, call.where or ""] = {"high": high}
            if logit is not None:
                return logit("log") / {"log": 1.0, "log2": math.log(2), "log10": math.log(10)}[call.name]
            return call.run(x.clamp(low, high))

        def division(call: Call) -> Any:
            below = 0 if call.name.startswith("__r") or call.name == "reciprocal" else 1
            if len(call.args) <= below or "rounding_mode" in call.kwargs:
                return call.run()
            x = call.args[below]
            if not isinstance(x, torch.Tensor) or x.is_complex() or x.is_sparse:
                return call.run()
            if not x.is_floating_point():
                x = x.to(call.args[0].dtype if is_float(call.args[0]) else torch.get_default_dtype())
            eps = distance(x.dtype, self.value)
            near = x.abs() < eps
            if not bool(near.any()) or not here(call, "div" if bool((near & (x < 0)).any()) else "div at zero"):
                return call.run()
            return call.put(below, torch.where(near, torch.where(x < 0, -eps, eps).to(x.dtype), x))

        def power(call: Call) -> Any:
            base, exponent = call.get(0, "input"), call.get(1, "exponent")
            if not is_float(base) or not isinstance(exponent, int | float):
                return call.run()
            eps = distance(base.dtype, self.value)
            near = base < eps if exponent != int(exponent) else base.abs() < eps
            # from the first power on, value and derivative are finite at zero; a root of a negative number is not
            harmless = exponent >= 1 and (exponent == int(exponent) or not bool((base < 0).any()))
            if harmless or exponent == 0 or not bool(near.any()) or not here(call, "pow"):
                return call.run()
            return call.run(torch.where(near, eps, base))

        def deviation(call: Call) -> Any:
            """Of a single number: zero, as that of several equal ones."""
            result = call.run()
            if not is_float(result) or not bool(torch.isnan(result).any()) or "unbiased" in call.kwargs:
                return result
            if not bool(torch.isfinite(call.args[0]).all()) or not here(call, call.name):
                return result
            return call.run(correction=0)

        def sigmoid(call: Call) -> Any:
            result, x = call.run(), call.args[0]
            if is_float(x) and learns(x):
                setattr(result, LOGIT, _Logit(x))
            return result

        def softmax(call: Call) -> Any:
            result, x = call.run(), call.args[0]
            if is_float(x) and learns(x):
                dim = call.get(1, "dim")
                setattr(result, LOGIT, lambda wanted: functional.log_softmax(x, dim) if wanted == "log" else None)
            return result

        def other_side(call: Call) -> Any:
            """1 - sigmoid(x) is sigmoid(-x)."""
            result = call.run()
            p, one = (call.args[1], call.args[0]) if call.name == "sub" else call.args[:2]
            logit = getattr(p, LOGIT, None)
            if isinstance(logit, _Logit) and isinstance(one, int | float) and one == 1:
                setattr(result, LOGIT, _Logit(-logit.x))
            return result

        def reshaped(call: Call) -> Any:
            result = call.run()
            logit = getattr(call.args[0], LOGIT, None)
            if isinstance(logit, _Logit):
                setattr(result, LOGIT, _Logit(call.run(logit.x)))
            return result

        def cross_entropy(call: Call) -> Any:
            p, target = call.args[0], call.get(1, "target")
            if not is_float(p):
                return call.run()
            eps = distance(p.dtype, self.value)
            if not _outside(p, eps, 1 - eps) or not here(call, call.name):
                return call.run()
            logit = getattr(p, LOGIT, None)
            if not isinstance(logit, _Logit):
                return call.run(p.clamp(eps, 1 - eps))
            weight, reduction = call.get(2, "weight"), call.kwargs.get("reduction", "mean")
            return functional.binary_cross_entropy_with_logits(logit.x, target, weight, reduction=reduction)

        def normalize(call: Call) -> Any:
            x, p, dim = call.args[0], call.get(1, "p", 2.0), call.get(2, "dim", 1)
            short = is_float(x) and bool((x.norm(p, dim) < self.value).any())
            if not short or len(call.args) > 3 or not here(call, call.name):
                return call.run()
            return call.run(eps=max(self.value, call.kwargs.get("eps", 0.0)))

        intercept(
            patient,
            {
                **dict.fromkeys(UNARY, unary),
                **dict.fromkeys(DIVISIONS, division),
                **dict.fromkeys(("std", "var"), deviation),
                **dict.fromkeys(("__rsub__", "rsub", "sub"), other_side),
                **dict.fromkeys(SHAPES, reshaped),
                "pow": power, "sigmoid": sigmoid, "softmax": softmax, "binary_cross_entropy": cross_entropy,
                "normalize": normalize,
            },
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Logit:
    """What a sigmoid was taken of."""

    x: Tensor

    def __call__(self, _wanted: str) -> Tensor:
        from torch.nn import functional

        return functional.logsigmoid(self.x)


def distance(kind: dtype, eps: float) -> float:
    """How far from a pole numbers of this type stay: in half precision 1 / eps must still be a number.

    >>> import torch
    >>> distance(torch.float32, 1e-6), distance(torch.float16, 1e-6)
    (1e-06, 0.0009765625)
    """
    import torch

    return max(eps, 16 * torch.finfo(kind).tiny)


def bounds(name: str, kind: dtype, eps: float) -> tuple[float | None, float | None]:
    """Between which numbers an operation is given is safe.

    >>> import torch
    >>> bounds("sqrt", torch.float32, 1e-6), bounds("acos", torch.float32, 1e-6)
    ((1e-06, None), (-0.999999, 0.999999))
    >>> bounds("exp", torch.float32, 1e-6)
    (None, 79)
    """
    import torch

    eps = distance(kind, eps)
    if name in GROWING:
        return None, math.floor(0.9 * math.log(torch.finfo(kind).max) / GROWING[name])
    if name in INVERSE:
        return eps - 1, 1 - eps
    return {"log1p": eps - 1, "acosh": 1 + eps, "arccosh": 1 + eps}.get(name, eps), None


def _outside(x: Tensor, low: float | None, high: float | None) -> bool:
    """Whether any element is; nan is not."""
    return (low is not None and bool((x < low).any())) or (high is not None and bool((x > high).any()))
