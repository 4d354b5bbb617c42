"""Edits of the number that a loss is multiplied by for half precision."""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst

from gradbelt.remedies.edits.acted import Deed
from gradbelt.remedies.edits.source import NoEdit, Source, argument
from gradbelt.remedies.edits.weave import Weave


def loss_scale(source: Source, weave: Weave, deeds: Sequence[Deed], value: float, argv: Sequence[str]) -> None:
    """A GradScaler's first scale, or the constant that the loss is multiplied by and the gradients divided."""
    for deed in deeds:
        if deed.what == "a GradScaler began lower":
            _scaler(source, weave, deed.line, value)
            continue
        way = deed.ways[0] if deed.ways else None
        if way is None or way.span is None:
            raise NoEdit("it can't be seen what the loss is multiplied by")
        node, old, new = source.expression(way.span), float(deed.facts["old"]), float(deed.facts["new"])
        sides = (node.left, node.right) if isinstance(node, cst.BinaryOperation) else tuple(a.value for a in node.args)
        names = [side for side in sides if isinstance(side, cst.Name | cst.Attribute)]
        places = [place for side in names if (place := _constant(source, source.code(side), old, argv)) is not None]
        if len(places) != 1:
            raise NoEdit("it can't be seen where the scale is written")
        start, end = source.span(places[0])
        weave.replace(start, end, repr(new))


def _constant(source: Source, name: str, old: float, argv: Sequence[str]) -> cst.BaseExpression | None:
    """The number written down for a name, where it is given once: by a statement or as a default of argparse."""
    if not re.search(rf"/=?\s*{re.escape(name)}\b|(div_?|div)\({re.escape(name)}\)", source.text):
        return None  # it can't be seen that the gradients are divided by the same
    bound = source.bindings(name)
    found: cst.BaseExpression | None = None
    if len(bound) == 1:
        statement = source.nearest(bound[0], cst.Assign)
        found = statement.value if statement is not None and len(statement.targets) == 1 else None
    elif not bound and "." in name:
        flag = "--" + name.rpartition(".")[2]
        if any(_flag(word.partition("=")[0]) == _flag(flag) for word in argv):
            return None
        for call in source.calls:
            first = call.args[0].value if call.args else None
            adds = source.code(call.func).endswith(".add_argument") and isinstance(first, cst.SimpleString)
            if isinstance(first, cst.SimpleString) and adds and _flag(str(first.raw_value)) == _flag(flag):
                default = argument(call, -1, "default")
                found = None if default is None else default.value
    text = "" if found is None else source.code(found)
    if found is None or not re.fullmatch(r"[\d.eE+*/ ()_-]+", text):
        return None
    try:
        return found if worth(text) == old else None
    except (SyntaxError, ValueError, ArithmeticError):
        return None


def _flag(text: str) -> str:
    return text.replace("_", "-")


def worth(text: str) -> float:
    """The value of an expression of numbers alone.

    >>> worth("2.0 ** 17")
    131072.0
    """
    return float(eval(compile(text, "constant", "eval"), {"__builtins__": {}}))  # noqa: S307  digits and operators


def _scaler(source: Source, weave: Weave, line: int, value: float) -> None:
    calls = [call for call in source.at((line,)) if source.full(call.func).endswith("GradScaler")]
    if len(calls) != 1 or any(arg.star for arg in calls[0].args):
        raise NoEdit("it can't be seen how the scaler is constructed")
    call = calls[0]
    place = 0 if source.full(call.func).startswith("torch.cuda") else 1
    given = argument(call, place, "init_scale")
    if given is not None:
        weave.replace(*source.span(given.value), repr(value))
    elif call.args:
        _, end = source.span(call.args[-1])
        weave.replace(end, end, f", init_scale={value!r}")
    else:
        _, end = source.span(call)
        weave.replace(end - 1, end - 1, f"init_scale={value!r}")
