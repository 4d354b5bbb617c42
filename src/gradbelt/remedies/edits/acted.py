"""Edits on the lines where a remedy was seen to act: the safe form of an operation, a mean for a sum, a mask."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import libcst as cst

from gradbelt.remedies.edits.made import spelled
from gradbelt.remedies.edits.source import NoEdit, Source, argument, method, simple
from gradbelt.remedies.edits.weave import Weave

FLOORED = ("log", "log2", "log10", "sqrt", "rsqrt")
GROWING = ("exp", "expm1", "exp2", "sinh", "cosh")
INVERSE = ("acos", "asin")
SOFTMAX = ("torch.softmax", "torch.nn.functional.softmax")

LOGIT_LOSSES = (
    "torch.nn.functional.cross_entropy", "torch.nn.functional.binary_cross_entropy_with_logits",
    "torch.nn.functional.log_softmax", "torch.log_softmax",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """One expression that a run was seen to carry out: where it stands, and which of its operands is meant."""

    span: tuple[int, ...] | None  # line, column, last line, the column behind it; None: not in this file
    place: int | None
    direct: bool  # it calls torch's own function


@dataclass(frozen=True, slots=True)
class Deed:
    """What a remedy did on one line of the script's own file; 0: it is about no line."""

    remedy: str
    what: str
    line: int
    ways: tuple[Way, ...] = field(default=(), compare=False)  # innermost first
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)


def eps_in_op(source: Source, weave: Weave, deeds: Sequence[Deed], eps: float) -> None:
    """Operands kept `eps` away from the pole, or below where the result would overflow."""
    if re.search(r"\.half\b|float16|autocast", source.text):
        raise NoEdit("in half precision the distance is another")
    for deed in deeds:
        if deed.what == "div at zero":
            below = _divisor(source, deed.line)
            text = source.code(below)
            where = spelled(source, weave, "torch.where", (below,))
            weave.replace(*source.span(below), f"{where}({text}.abs() < {eps:g}, {eps:g}, {text})")
            continue
        if deed.what in GROWING and "high" in deed.facts:
            bound = f".clamp_max({deed.facts['high']:g})"
        elif deed.what in FLOORED:
            bound = f".clamp_min({eps:g})"
        elif deed.what in INVERSE:
            bound = f".clamp({eps - 1:.12g}, {1 - eps:.12g})"
        else:
            raise NoEdit(f"{deed.what} has no safe form of a few letters")
        operands = [found for call in source.at((deed.line,)) if (found := _operand(source, call, deed.what))]
        if not operands:
            raise NoEdit(f"no {deed.what} is written on line {deed.line}")
        for operand in operands:
            _after(source, weave, operand, bound)


def loss_reduction(source: Source, weave: Weave, deeds: Sequence[Deed]) -> None:
    """A mean for each sum."""
    for deed in deeds:
        if deed.what != "sum made a mean":
            raise NoEdit("several sums were divided together")
        found: list[tuple[int, int, str]] = []
        for call in source.at((deed.line,)):
            given = argument(call, -1, "reduction")
            owner = method(call, "sum")
            if given is not None and source.code(given.value) in ("'sum'", '"sum"'):
                start, end = source.span(given.value)
                found.append((start, end, source.text[start:end].replace("sum", "mean")))
            elif owner is not None and len(call.args) == (source.full(call.func) == "torch.sum"):
                _, end = source.span(call.func)
                found.append((end - len("sum"), end, "mean"))
        if len(found) != 1:
            raise NoEdit(f"it can't be told which sum of line {deed.line} is the loss")
        weave.replace(*found[0])


def mask_fix(source: Source, weave: Weave, deeds: Sequence[Deed]) -> None:
    """Rows of a softmax that hold nothing give zeros; nothing over nothing is nothing."""
    for deed in deeds:
        if deed.what == "0 / 0":
            below = _divisor(source, deed.line)
            text = source.code(below)
            where = spelled(source, weave, "torch.where", (below,))
            weave.replace(*source.span(below), f"{where}({text} == 0, 1, {text})")
        elif deed.what == "softmax":
            _softmax(source, weave, deed.line)
        else:
            raise NoEdit(f"{deed.what} has no edit of a few lines")


def qk_norm(source: Source, weave: Weave, deeds: Sequence[Deed], eps: float) -> None:
    """Queries and keys over their root mean square, where their product is written."""
    for deed in deeds:
        if deed.what != "queries and keys normed":
            raise NoEdit("the product is not in this file")
        query, key = _attended(source, deed.line)
        norm = spelled(source, weave, "torch.nn.functional.rms_norm", (query,))
        for each, wanted in ((query, "query"), (key, "key")):
            text = source.code(each)
            if not simple(each):
                text = weave.fresh(wanted)
                weave.around(source.statement(each)).before.append(f"{text} = {source.code(each)}")
            weave.replace(*source.span(each), f"{norm}({text}, {text}.shape[-1:], eps={eps:g})")


def _attended(source: Source, line: int) -> tuple[cst.BaseExpression, cst.BaseExpression]:
    """Queries and keys on a line, each with a head's numbers in its last dimension."""
    pairs: list[tuple[cst.BaseExpression, cst.BaseExpression | None]] = []
    for call in source.at((line,)):
        one, other = argument(call, 0, "query"), argument(call, 1, "key")
        if source.full(call.func) == "torch.nn.functional.scaled_dot_product_attention" and one and other:
            pairs.append((one.value, other.value))
        elif source.full(call.func) in ("torch.matmul", "torch.bmm") and len(call.args) == 2:
            pairs.append((call.args[0].value, _turned(source, call.args[1].value)))
    for product in source.products(line):
        pairs.append((product.left, _turned(source, product.right)))
    if len(pairs) != 1 or pairs[0][1] is None:
        raise NoEdit(f"it can't be told what queries and keys of line {line} are")
    return pairs[0][0], pairs[0][1]


def _turned(source: Source, value: cst.BaseExpression) -> cst.BaseExpression | None:
    """K of `K.transpose(-2, -1)` and `K.mT`."""
    if isinstance(value, cst.Attribute) and value.attr.value == "mT":
        return value.value
    owner = method(value, "transpose") if isinstance(value, cst.Call) else None
    if owner is None or not isinstance(value, cst.Call):
        return None
    dims = sorted(source.code(arg.value) for arg in value.args)
    return owner if dims == ["-1", "-2"] else None


def logit_scaling(source: Source, weave: Weave, deeds: Sequence[Deed], limit: float) -> None:
    """Logits scaled down, sample by sample, where a loss is given them."""
    for deed in deeds:
        dims = deed.facts.get("dims")
        calls = [call for call in source.at((deed.line,)) if _takes_logits(source, call)]
        given = argument(calls[0], 0, "input") if len(calls) == 1 else None
        if given is None or not dims or dims < 2:
            raise NoEdit(f"it can't be told what the logits of line {deed.line} are")
        logits, text = given.value, source.code(given.value)
        if not simple(logits):
            statement = source.statement(logits)
            value = statement.value if isinstance(statement, cst.Assign | cst.Expr) else None
            if value is not calls[0] or given is not calls[0].args[0] or given.keyword is not None:
                raise NoEdit("the logits can't be said twice")
            name = weave.fresh("logits")
            weave.around(statement).before.append(f"{name} = {text}")
            text = name
        over = "1" if dims == 2 else str(tuple(range(1, dims)))
        weave.replace(
            *source.span(logits),
            f"{text} * ({limit:g} / {text}.detach().abs().amax({over}, keepdim=True)).clamp(max=1)",
        )


def _takes_logits(source: Source, call: cst.Call) -> bool:
    """Whether a loss of torch's is called, as a function or as a module made in this file."""
    full = source.full(call.func)
    if full in LOGIT_LOSSES:
        return True
    losses = r"(\w+\.)*(CrossEntropyLoss|BCEWithLogitsLoss)\("
    name = source.code(call.func)
    if isinstance(call.func, cst.Call):
        return re.match(losses, name) is not None
    return simple(call.func) and re.search(rf"\b{re.escape(name)}\s*=\s*{losses}", source.text) is not None


def _softmax(source: Source, weave: Weave, line: int) -> None:
    calls = [call for call in source.at((line,)) if source.full(call.func) in SOFTMAX or method(call, "softmax")]
    if len(calls) != 1:
        raise NoEdit(f"it can't be told which softmax of line {line} it is")
    call = calls[0]
    whole = source.full(call.func) in SOFTMAX
    first = argument(call, 0, "input")
    scores = first.value if whole and first is not None else method(call, "softmax")
    dim = argument(call, 1 if whole else 0, "dim")
    if scores is None or not simple(scores) or dim is None or len(call.args) != 1 + whole:
        raise NoEdit("what the softmax is taken of can't be said twice")
    statement, text, axis = source.statement(call), source.code(scores), source.code(dim.value)
    empty = source.fresh("empty", "all_masked", "nothing_left")
    isneginf = spelled(source, weave, "torch.isneginf", (statement,))
    weave.around(statement).before.append(f"{empty} = {isneginf}({text}).all({axis}, keepdim=True)")
    _, end = source.span(scores)
    weave.replace(end, end, f".masked_fill({empty}, 0.0)")
    _, end = source.span(call)
    weave.replace(end, end, f".masked_fill({empty}, 0.0)")


def _divisor(source: Source, line: int) -> cst.BaseExpression:
    """What stands under the one line of a fraction there, if it can be said twice."""
    found = [
        right
        for right in source.divisors(line)
        if not isinstance(right, cst.BaseNumber) and not source.code(right).startswith(("len(", "math."))
    ]
    if len(found) != 1:
        raise NoEdit(f"it can't be told which division of line {line} it is")
    below = found[0]
    inner = below
    while isinstance(inner, cst.Call) and isinstance(inner.func, cst.Attribute):
        if not all(isinstance(arg.value, cst.BaseNumber | cst.UnaryOperation | cst.Name) for arg in inner.args):
            break
        inner = inner.func.value
    if not simple(inner):
        raise NoEdit("the divisor can't be said twice")
    return below


def _operand(source: Source, call: cst.Call, name: str) -> cst.BaseExpression | None:
    """X of `torch.log(X)` or `X.log()`."""
    if source.full(call.func) == f"torch.{name}":
        return call.args[0].value if len(call.args) == 1 and not call.args[0].star else None
    return method(call, name) if not call.args else None


def _after(source: Source, weave: Weave, operand: cst.BaseExpression, text: str) -> None:
    """`operand` with a method call put behind it, in parentheses where it needs them."""
    start, end = source.span(operand)
    if operand.lpar:
        if source.text[end : end + 1] != ")":
            raise NoEdit("a parenthesis is spread over lines")
        weave.replace(end + 1, end + 1, text)
    elif isinstance(operand, cst.Name | cst.Attribute | cst.Call | cst.Subscript):
        weave.replace(end, end, text)
    else:
        weave.replace(start, start, "(")
        weave.replace(end, end, f"){text}")
