"""Edits of a model as a whole, above its optimizer: other activations, outputs of variance one, ways past blocks,
branches that start small, units clipped."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import libcst as cst

from gradbelt.remedies.edits.acted import Deed, Way
from gradbelt.remedies.edits.made import RESTORED, Made, spelled
from gradbelt.remedies.edits.source import NoEdit, Source
from gradbelt.remedies.edits.weave import Weave

MOST = 8  # layers that are named one by one


def activation_swap(
    source: Source, weave: Weave, made: Sequence[Made], deed: Deed, ways: Sequence[Way | None], slope: float
) -> None:
    """nn.LeakyReLU where a swapped activation is constructed, leaky_relu where a function was called, and the
    initialisation that goes with them for the layers that feed them."""
    home, model = _model(source, made)
    layers = deed.facts.get("layers")
    if not layers or len(layers) != 1 or not ways:
        raise NoEdit("there are several models, or none")
    done: set[int] = set()
    for way in ways:
        if way is None or way.span is None:
            raise NoEdit("it can't be seen where the activation is constructed")
        node = source.expression(way.span)
        if id(node) in done:
            continue
        done.add(id(node))
        if isinstance(node, cst.Call) and re.fullmatch(r"torch\.nn\.[A-Z]\w*", source.full(node.func)):
            name = spelled(source, weave, "torch.nn.LeakyReLU", (node,))
            weave.replace(*source.span(node), f"{name}({slope:g})")
        else:
            _function(source, weave, node, way, slope)
    fill = spelled(source, weave, "torch.nn.init.kaiming_normal_", (home,))
    layer = weave.fresh("layer")
    weave.around(home).before += [
        f"for {layer} in {_each(model, layers[0])}:",
        f"\t{fill}({layer}.weight, {slope:g})",
    ]


def _function(source: Source, weave: Weave, node: cst.Call | cst.BinaryOperation, way: Way, slope: float) -> None:
    """leaky_relu(x, 0.01) for torch.sigmoid(x), x.tanh(), x ** 2."""
    if not way.direct and not source.full(getattr(node, "func", node)).startswith("torch.nn.functional."):
        raise NoEdit("a function of the script's own stands between")
    data = source.operand(node, way.place, direct=way.direct)
    name = spelled(source, weave, "torch.nn.functional.leaky_relu", (node,))
    (start, end), (first, last) = source.span(node), source.span(data)
    if data.lpar:
        first, last = source.text.rindex("(", 0, first), source.text.index(")", last) + 1
    # the operand itself may hold the next activation, so it stays where it is
    weave.replace(start, first, f"{name}(")
    weave.replace(last, end, f", {slope:g})")


def lsuv(source: Source, weave: Weave, made: Sequence[Made], deed: Deed, tolerance: float, passes: int) -> None:
    """Orthogonal weights, and a hook on each layer that brings its first output to variance one and goes."""
    home, model = _model(source, made)
    layers = _layers(deed)
    orthogonal = spelled(source, weave, "torch.nn.init.orthogonal_", (home,))
    no_grad = spelled(source, weave, "torch.no_grad", (home,))
    hook, hooks, layer = weave.fresh("unit_variance"), weave.fresh("hooks"), weave.fresh("layer")
    weave.around(home).before += [
        f"def {hook}({layer}, given, output):",
        f"\t{hooks}.pop({layer}).remove()",
        f"\twith {no_grad}():",
        f"\t\tfor _ in range({passes}):",
        "\t\t\tvariance = output.float().var()",
        f"\t\t\tif not (0 < variance < float('inf') and abs(variance - 1) >= {tolerance:g}):",
        "\t\t\t\tbreak",
        f"\t\t\t{layer}.weight /= variance.sqrt()",
        f"\t\t\toutput = {layer}.forward(*given)",
        f"\treturn {layer}.forward(*given)",
        f"{hooks} = {{}}",
        f"for {layer} in {_each(model, layers)}:",
        f"\t{orthogonal}({layer}.weight)",
        f"\t{hooks}[{layer}] = {layer}.register_forward_hook({hook})",
    ]


def agc(source: Source, weave: Weave, made: Sequence[Made], ratio: float, spared: Sequence[str] | None) -> None:
    """gradbelt.fasten below each construction. `spared`: patterns of the names that were left alone beside the usual
    ones."""
    if re.search(r"sparse\s*=\s*True|SparseAdam", source.text):
        raise NoEdit("sparse gradients have no units")
    if not made or spared is None or any(each.target is None or not each.alone for each in made):
        raise NoEdit("it can't be seen which model an optimizer trains")
    for each in made:
        home = source.statement(each.call)
        fasten, rule = (spelled(source, weave, f"gradbelt.{name}", (home,)) for name in ("fasten", "clip.AGC"))
        but = f", exclude={tuple(spared)!r}" if spared else ""
        weave.around(home).after.append(
            f"{fasten}({each.models[0]}, {each.target}, clip={rule}({ratio!r}{but}), guard=False)"
        )


def _model(source: Source, made: Sequence[Made]) -> tuple[cst.BaseSmallStatement, str]:
    """Above which statement the one trained model can be changed, and its name there."""
    models = {model for each in made for model in each.models}
    if len(made) != 1 or len(models) != 1 or not all(re.fullmatch(r"(self\.)?\w+", model) for model in models):
        raise NoEdit("it can't be seen which model is trained")
    if RESTORED.search(source.text):
        raise NoEdit("weights that were loaded would be lost")
    model = models.pop()
    if model == "self":
        raise NoEdit("the model is still being made")
    return source.statement(made[0].call), model


def skip_connection(source: Source, weave: Weave, made: Sequence[Made], deed: Deed) -> None:
    """A hook on each block that adds what it was given to what it makes, over the root of their number."""
    home, model, blocks = *_model(source, made), _layers(deed)
    past, block = weave.fresh("past"), weave.fresh("block")
    weave.around(home).before += [
        f"def {past}({block}, given, output):",
        f"\treturn given[0] + output * {1 / math.sqrt(len(blocks)):.12g}",
        f"for {block} in {_each(model, blocks)}:",
        f"\t{block}.register_forward_hook({past})",
    ]


def residual_scale(source: Source, weave: Weave, made: Sequence[Made], deed: Deed) -> None:
    """What ends a residual branch begins over the root of the branches' number."""
    home, model, ends = *_model(source, made), _layers(deed)
    layer, weight = weave.fresh("layer"), weave.fresh("weight")
    weave.around(home).before += [
        f"for {layer} in {_each(model, ends)}:",
        f"\tfor {weight} in {layer}.parameters():",
        f"\t\t{weight}.data *= {deed.facts['factor']:.12g}",
    ]


def _layers(deed: Deed) -> list[str]:
    layers: list[str] | None = deed.facts.get("layers")
    if not layers:
        raise NoEdit("the layers are not known")
    return layers


def _each(model: str, layers: Sequence[str]) -> str:
    """An expression for the layers with these names, to iterate over: one by one, or by their numbers.

    >>> _each("net", ["inp", "blocks.0.mlp"]), _each("net", [f"{i}" for i in range(1, 40, 3)])
    ('(net.inp, net.blocks[0].mlp)', '(net[i] for i in range(1, 38, 3))')
    >>> _each("net", ["inp", *(f"hidden.{i}" for i in range(9))])
    '(net.inp, *(net.hidden[i] for i in range(9)))'
    """
    found = [model + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part)
             for path in layers]  # fmt: skip
    if len(found) <= MOST:
        return f"({', '.join(found)}{',' if len(found) == 1 else ''})"
    rows: dict[tuple[str, ...], list[int]] = {}  # what is around the number -> the numbers
    said = []
    for name in found:
        numbers = list(re.finditer(r"\[(\d+)\]", name))
        if len(numbers) == 1:
            rows.setdefault((name[: numbers[0].start()], name[numbers[0].end() :]), []).append(int(numbers[0][1]))
        else:
            said.append(name)
    in_rows = [f"{head}[i]{tail} for i in {_range(numbers)}" for (head, tail), numbers in rows.items()]
    if len(said) + len(in_rows) > MOST:
        raise NoEdit("there are too many layers to name")
    if len(in_rows) == 1 and not said:
        return f"({in_rows[0]})"
    return f"({', '.join([*said, *(f'*({row})' for row in in_rows)])})"


def _range(numbers: Sequence[int]) -> str:
    first, step = numbers[0], (numbers[1] - numbers[0] if len(numbers) > 1 else 1)
    found = range(first, numbers[-1] + 1, max(1, step))
    if list(found) != list(numbers):
        raise NoEdit("the layers have no numbers in a row")
    return (
        f"range({found.stop})"
        if first == 0 and step == 1
        else f"range({first}, {found.stop}{f', {step}' * (step != 1)})"
    )
