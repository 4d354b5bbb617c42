"""Edits of recurrences: the gradient through time ends after so many steps."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from gradbelt.remedies.edits.acted import Deed
from gradbelt.remedies.edits.made import spelled
from gradbelt.remedies.edits.source import NoEdit, Source, method, pure, tight
from gradbelt.remedies.edits.weave import Weave

PAIR = ("lstm", "lstm_cell")  # whose state is two tensors


def truncated_bptt(source: Source, weave: Weave, deeds: Sequence[Deed], length: int) -> None:
    """A loop over time cuts its state every `length` turns; a layer runs over its sequence in pieces."""
    cut: set[int] = set()
    for deed in deeds:
        if deed.what == "cut in a loop":
            statement, loop = _turn(source, deed)
            if id(statement) not in cut:
                _cut_in_loop(source, weave, statement, loop, length, pair=deed.facts.get("kind") in PAIR)
                cut.add(id(statement))
        elif deed.what == "run in pieces":
            _in_pieces(source, weave, deed, length)
        else:
            raise NoEdit("a state is carried from batch to batch")


def _turn(source: Source, deed: Deed) -> tuple[cst.BaseSmallStatement, cst.For]:
    """The statement that takes a state and makes the next one, and the loop around it."""
    for way in deed.ways:
        if way.span is None:
            break
        statement = source.statement(source.expression(way.span))
        loop = source.nearest(statement, cst.For)
        if loop is None or source.scopes(loop)[0] is not source.scopes(statement)[0]:
            continue  # a function that does one turn; its caller has the loop
        if _states(source, statement):
            return statement, loop
    raise NoEdit("it can't be seen which loop goes through time")


def _states(source: Source, statement: cst.BaseSmallStatement) -> list[str]:
    """The names that a statement both reads and gives a value."""
    if not isinstance(statement, cst.Assign) or len(statement.targets) != 1:
        return []
    target = statement.targets[0].target
    elements = [each.value for each in target.elements] if isinstance(target, cst.Tuple) else [target]
    read = source.reads(statement.value)
    return [each.value for each in elements if isinstance(each, cst.Name) and each.value in read]


def _cut_in_loop(
    source: Source, weave: Weave, statement: cst.BaseSmallStatement, loop: cst.For, length: int, *, pair: bool
) -> None:
    if any(method(call, "backward") is not None and loop in list(source.above(call)) for call in source.calls):
        raise NoEdit("the loop goes backward by itself")
    states = _states(source, statement)
    turn = _count(source, weave, loop)
    cut = [f"{state}.detach()" for state in states]
    if pair and len(states) == 1:
        each = weave.fresh("each")
        cut = [f"tuple({each}.detach() for {each} in {states[0]})"]
    weave.around(statement).before += [
        f"if {turn} and {turn} % {length} == 0:",
        f"\t{', '.join(states)} = {', '.join(cut)}",
    ]


def _count(source: Source, weave: Weave, loop: cst.For) -> str:
    """A name that is 0 in the loop's first turn and grows by 1 in each."""
    counted, target = loop.iter, loop.target
    named = source.full(counted.func) if isinstance(counted, cst.Call) else ""
    if isinstance(counted, cst.Call) and named == "range" and isinstance(target, cst.Name):
        begin = counted.args[0].value if len(counted.args) == 2 else None
        if len(counted.args) == 1 or (isinstance(begin, cst.Integer) and begin.value == "0"):
            return target.value
    if isinstance(counted, cst.Call) and named == "enumerate" and isinstance(target, cst.Tuple):
        first = target.elements[0].value
        if len(counted.args) == 1 and isinstance(first, cst.Name):
            return first.value
    name = weave.fresh("t")
    start, end = source.span(target)
    if isinstance(target, cst.Tuple) and not target.lpar:
        weave.replace(start, start, f"{name}, (")
        weave.replace(end, end, ")")
    else:
        weave.replace(start - len(target.lpar), start - len(target.lpar), f"{name}, ")
    start, end = source.span(counted)
    if counted.lpar:
        raise NoEdit("the loop can't be counted")
    weave.replace(start, start, "enumerate(")
    weave.replace(end, end, ")")
    return name


def _in_pieces(source: Source, weave: Weave, deed: Deed, length: int) -> None:
    """Lines above the layer's call run it piece by piece, and their result takes the place of the call."""
    way = deed.ways[0] if deed.ways else None
    if way is None or way.span is None or way.place != 0:
        raise NoEdit("it can't be seen what the layer is given")
    node = source.expression(way.span)
    if not isinstance(node, cst.Call) or any(arg.keyword is not None for arg in node.args) or len(node.args) > 2:
        raise NoEdit("the layer is called in a way that can't be seen through")
    if not all(pure(arg.value) for arg in node.args):
        raise NoEdit("what the layer is given can't be said above its line")
    sequence, *first = (arg.value for arg in node.args)
    statement, axis, layer = source.statement(node), deed.facts.get("axis"), source.code(node.func)
    pieces, piece, output, state = (weave.fresh(name) for name in ("pieces", "piece", "output", "state"))
    cut = f"{state}.detach()"
    if deed.facts.get("kind") in PAIR:
        each = weave.fresh("each")
        cut = f"tuple({each}.detach() for {each} in {state})"
    owner = source.code(sequence) if tight(sequence) and not sequence.lpar else f"({source.code(sequence)})"
    weave.around(statement).before += [
        f"{pieces}, {state} = [], {_written(source, first[0]) if first else 'None'}",
        f"for {piece} in {owner}.split({length}, {axis}):",
        f"\tif {pieces}:",
        f"\t\t{state} = {cut}",
        f"\t{output}, {state} = {layer}({piece}, {state})",
        f"\t{pieces}.append({output})",
    ]
    whole = f"{spelled(source, weave, 'torch.cat', (statement,))}({pieces}, {axis})"
    above = source.parent(node)
    if isinstance(above, cst.Subscript) and source.code(above).endswith("[0]"):
        weave.replace(*source.span(above), whole)
    elif isinstance(above, cst.Assign) and isinstance(target := above.targets[0].target, cst.Tuple):
        unread = len(target.elements) == 2 and source.code(target.elements[1].value) == "_"
        if unread and len(above.targets) == 1:
            weave.replace(*source.span(above), f"{source.code(target.elements[0].value)} = {whole}")
        else:
            weave.replace(*source.span(node), f"{whole}, {state}")
    else:
        weave.replace(*source.span(node), f"({whole}, {state})")


def _written(source: Source, node: cst.BaseExpression) -> str:
    """The expression with the parentheses it needs among others."""
    text = source.code(node)
    return f"({text})" if node.lpar or isinstance(node, cst.Tuple) else text
