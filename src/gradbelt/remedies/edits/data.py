"""Edits where data comes in: holes filled, inputs and targets standardised, batches with outliers left out."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from gradbelt.remedies.edits.acted import Deed
from gradbelt.remedies.edits.made import spelled
from gradbelt.remedies.edits.source import NoEdit, Source, method, pure, tight
from gradbelt.remedies.edits.steps import Use, backward_calls
from gradbelt.remedies.edits.weave import Weave

WIDTH = 88  # of a line of numbers
LINEAR = {"mean", "sum", "squeeze", "float"}
"""What may be done to the terms of a loss whose gradient is divided as a whole."""


def impute_data(source: Source, weave: Weave, deeds: Sequence[Deed]) -> None:
    """Means of the columns in the batch in place of what is not finite, right above the line where the data meets a
    weight or a loss."""
    for deed in deeds:
        _, data, statement = _door(source, deed)
        if not deed.facts.get("dims"):
            raise NoEdit("a single number has no column")
        isfinite, where = (spelled(source, weave, f"torch.{name}", (statement,)) for name in ("isfinite", "where"))
        finite, means, text = weave.fresh("finite"), weave.fresh("means"), source.code(data)
        weave.around(statement).before += [
            f"{finite} = {isfinite}({text})",
            f"{means} = {where}({finite}, {text}, 0.0).sum(0) / {finite}.sum(0).clamp_min(1)",
        ]
        weave.replace(*_whole(source, data), f"{where}({finite}, {text}, {means})")


def normalise_input(source: Source, weave: Weave, deeds: Sequence[Deed], bound: float) -> None:
    """The mean and deviation that the trial found, written above each line where the data meets a weight."""
    for deed in deeds:
        _, data, statement = _door(source, deed)
        means, spreads = _numbers(deed)
        text = source.code(data)
        if len(means) == 1:
            shifted = f"({text} - {means[0]}) / {spreads[0]}"
        else:
            mean, std = weave.fresh("mean"), weave.fresh("std")
            after = int(deed.facts["axis"])
            shape = "" if after == -1 else f".view(-1{', 1' * (-1 - after)})"
            owner = text if tight(data) else f"({text})"
            for name, numbers in ((mean, means), (std, spreads)):
                weave.around(statement).before += _written(f"{name} = {owner}.new_tensor([", numbers, f"]){shape}")
            shifted = f"({text} - {mean}) / {std}"
        weave.replace(*_whole(source, data), f"({shifted}).clamp(-{bound:g}, {bound:g})")


def normalise_target(source: Source, weave: Weave, deeds: Sequence[Deed], backwards: tuple[int, ...]) -> None:
    """The model's output is put on the scale of the targets where a loss is told, and the gradient on that of the
    output where it begins: what the script prints stays in its own unit."""
    divided: dict[int, str] = {}
    for deed in deeds:
        node, prediction, statement = _door(source, deed, twice=False)
        means, spreads = _numbers(deed)
        power = deed.facts.get("power")
        if len(means) != 1 or power not in (1, 2):
            raise NoEdit("the loss is in no power of the targets' unit")
        sign = "-" if means[0].startswith("-") else "+"
        # around the prediction, not in its place: there may be an edit within it
        inner, outer = not tight(prediction), not isinstance(node, cst.Call)  # parentheses that are needed
        start, end = _whole(source, prediction)
        weave.replace(start, start, "(" * (inner + outer))
        scaled = f" * {spreads[0]} {sign} {means[0].removeprefix('-')}"
        weave.replace(end, end, ")" * inner + scaled + ")" * outer)
        if deed.facts.get("trained"):
            loss = _beginning(source, node, statement, backwards)
            factor = f"{float(spreads[0]) ** power:.6g}"
            if divided.setdefault(id(loss), factor) != factor:
                raise NoEdit("one backward for losses in several units")
            weave.replace(*source.span(loss), f"({source.code(loss)} / {factor})")


def skip_batch(source: Source, weave: Weave, deeds: Sequence[Deed], found: Sequence[Use]) -> None:
    """The step under a condition: no number of its batch above a limit that lies between those of the other batches
    and those that were left out. nan is not below it."""
    if len(found) != 1 or found[0].below or found[0].scaler is not None:
        raise NoEdit("there are several steps, or one that is not the script's own")
    use = found[0]
    if not isinstance(use.statement, cst.Expr):
        raise NoEdit("the step is no statement of its own")
    tests: dict[str, None] = {}
    for deed in deeds:
        limit = deed.facts.get("limit")
        data = _batch(source, deed, use.statement)
        if limit is None:
            raise NoEdit("no limit lies between the batches")
        text = source.code(data)
        tests[f"{text if tight(data) else f'({text})'}.abs().max() < {limit:g}"] = None
    around = weave.around(use.statement)
    if around.condition is not None:
        raise NoEdit("the step has a condition already")
    around.condition = " and ".join(tests)


def _batch(source: Source, deed: Deed, step: cst.CSTNode) -> cst.BaseExpression:
    """What the function that steps calls the batch."""
    home = source.scopes(step)[0]
    for way in deed.ways:
        if way.span is None or way.place is None:
            continue
        node = source.expression(way.span)
        if source.scopes(node)[0] is not home:
            continue
        data, statement = source.operand(node, way.place, direct=way.direct), source.statement(node)
        if not pure(data) or not all(source.seen_from(name, statement, step) for name in source.reads(data)):
            raise NoEdit("the batch can't be said once more where the step is")
        return data
    raise NoEdit("it can't be seen what the batch is called where the step is")


def _door(
    source: Source, deed: Deed, *, twice: bool = True
) -> tuple[cst.Call | cst.BinaryOperation, cst.BaseExpression, cst.BaseSmallStatement]:
    """The expression that a remedy acted on, the operand it changed, and their statement."""
    way = deed.ways[0] if deed.ways else None
    if way is None or way.span is None:
        raise NoEdit("it can't be seen which expression it was")
    node = source.expression(way.span)
    data = source.operand(node, way.place, direct=way.direct)
    if twice and not pure(data):
        raise NoEdit("what comes in can't be said twice")
    return node, data, source.statement(node)


def _whole(source: Source, node: cst.BaseExpression) -> tuple[int, int]:
    """From where to where an operand is written, its own parentheses included."""
    start, end = source.span(node)
    for _ in node.lpar:
        start = source.text.rindex("(", 0, start)
        end = source.text.index(")", end) + 1
    return start, end


def _numbers(deed: Deed) -> tuple[list[str], list[str]]:
    means, spreads = deed.facts.get("mean"), deed.facts.get("std")
    if not means or not spreads:
        raise NoEdit("there are too many numbers to write down, or several sets of them")
    return [f"{value:.6g}" for value in means], [f"{value:.6g}" for value in spreads]


def _written(head: str, numbers: Sequence[str], tail: str) -> list[str]:
    """A list of numbers on one line, or on several."""
    line = ", ".join(numbers)
    if len(head) + len(line) + len(tail) <= WIDTH:
        return [head + line + tail]
    rows: list[str] = [head]
    for number in numbers:
        if len(rows) == 1 or len(rows[-1]) + len(number) + 2 > WIDTH:
            rows.append(f"\t{number},")
        else:
            rows[-1] += f" {number},"
    return [*rows, tail]


def _beginning(
    source: Source, node: cst.CSTNode, statement: cst.BaseSmallStatement, backwards: tuple[int, ...]
) -> cst.BaseExpression:
    """What `backward` is called on, where that is the loss in which `node` stands and nothing else."""
    value = statement.value if isinstance(statement, cst.Assign | cst.Expr) else None
    calls = backward_calls(source, backwards)
    if isinstance(value, cst.Call) and any(value is call for call in calls):
        value = method(value, "backward")
        if value is not None and _linear(source, node, value):
            return value
    if not isinstance(statement, cst.Assign) or len(statement.targets) != 1 or not _linear(source, node, value):
        raise NoEdit("the loss has other terms")
    name = source.code(statement.targets[0].target)
    for call in calls:
        owner = method(call, "backward")
        named = owner is not None and source.code(owner) == name and not call.args
        if owner is not None and named and source.seen_from(name, statement, call):
            return owner
    raise NoEdit("it can't be seen where the loss goes backward")


def _linear(source: Source, node: cst.CSTNode, whole: cst.CSTNode | None) -> bool:
    """Whether `whole` is `node`, its square or absolute value, or their mean or sum."""
    powers = {"pow", "square", "abs", "absolute"}
    while node is not whole:
        above = source.parent(node)
        if isinstance(above, cst.Attribute | cst.Arg):
            above, node = source.parent(above), above
        if isinstance(above, cst.Call):
            name = source.code(above.func).rpartition(".")[2]
            if name not in LINEAR | powers:
                return False
        elif not (
            isinstance(above, cst.BinaryOperation)
            and isinstance(above.operator, cst.Power)
            and source.code(above.right) == "2"
        ):
            return False
        node = above
    return True
