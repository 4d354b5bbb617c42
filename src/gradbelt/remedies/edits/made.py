"""Edits where optimizers are constructed: learning rate, constants, warm-up, initialisation."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from gradbelt.remedies.edits.source import NoEdit, Source, argument, method, simple
from gradbelt.remedies.edits.weave import Weave

DEFAULT_LR = {
    "ASGD": 1e-2, "Adadelta": 1.0, "Adafactor": 1e-2, "Adagrad": 1e-2, "Adam": 1e-3, "AdamW": 1e-3, "Adamax": 2e-3,
    "LBFGS": 1.0, "Muon": 1e-3, "NAdam": 2e-3, "RAdam": 1e-3, "RMSprop": 1e-2, "Rprop": 1e-2, "SGD": 1e-3,
    "SparseAdam": 1e-3,
}  # fmt: skip
"""What each class of torch.optim takes for lr when nothing is asked for."""

CONSTANT_OF = {
    "eps": ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adadelta", "SparseAdam"),
    "betas": ("Adam", "AdamW", "NAdam", "RAdam", "SparseAdam"),
}
"""Classes of torch.optim in which these are written so, with 0.9 for the first of the betas."""

CONSTANTS = ("betas", "eps", "alpha", "rho", "etas", "step_sizes", "lambd", "momentum_decay", "beta2_decay", "d")
"""What `optimizer_defaults` puts back; the same names as in examine/facts.py, which needs torch."""

RESTORED = re.compile(
    r"""load_state_dict|from_pretrained|pretrained\s*=|weights\s*=\s*["'\w.]*Weights|weights=["']|torch\.(load|hub)\b"""
)
ABSOLUTE = {"eta_min", "min_lr", "max_lr", "base_lr", "lr_min", "warmup_lr_init", "warmup_lr"}
STEP_SIZE = re.compile(r"""\[\s*["']lr["']\s*\]\s*[-+*/]?=(?!=)""")
LAYERS = ("Linear", "Bilinear", *(f"Conv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3)))
RECURRENT = {"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"}
PLAIN = {"torch", "numpy", "sklearn", "pandas", "matplotlib", "tqdm", *sys.stdlib_module_names}


@dataclass(frozen=True, slots=True)
class Made:
    """One construction of an optimizer."""

    call: cst.Call
    kind: str | None  # its class in torch.optim; None for another's that takes `lr=`
    target: str | None  # what it is assigned to
    models: tuple[str, ...]  # M for each `M.parameters()`, where the first argument holds nothing else
    alone: bool  # the first argument is `M.parameters()`


def constructions(source: Source, lines: tuple[int, ...]) -> tuple[Made, ...]:
    """The optimizers made on `lines`; none at all where one of the lines has none to be recognised."""
    found: list[Made] = []
    for line in lines:
        here = [made for call in source.at((line,)) if (made := _made(source, call)) is not None]
        if not here:
            return ()
        found += [made for made in here if all(made.call is not other.call for other in found)]
    return tuple(found)


def _made(source: Source, call: cst.Call) -> Made | None:
    full = source.full(call.func)
    name = full.rpartition(".")[2]
    known = name if full.startswith("torch.optim.") and name in DEFAULT_LR else None
    chosen = isinstance(call.func, cst.Call) and source.code(call.func).startswith("getattr(")
    other = re.fullmatch(r"[A-Z]\w*", name) is not None or chosen
    if known is None and not (other and full.split(".")[1:2] != ["nn"] and argument(call, -1, "lr") is not None):
        return None
    first = argument(call, 0, "params")
    models = () if first is None else _models(source, first.value)
    value = None if first is None else first.value
    alone = isinstance(value, cst.Call) and bool(models) and method(value, "parameters") is not None
    return Made(call, known, _target(source, call), models, alone)


def _models(source: Source, value: cst.BaseExpression) -> tuple[str, ...]:
    """M for each of the `M.parameters()` that the expression puts in a row; nothing where it holds anything else."""
    match value:
        case cst.Call(args=[]) if (model := method(value, "parameters")) is not None and simple(model):
            return (source.code(model),)
        case cst.Call(func=cst.Name("list" | "chain") | cst.Attribute(attr=cst.Name("chain"))):
            parts = [_models(source, arg.value) for arg in value.args if not arg.star]
            return tuple(model for part in parts for model in part) if parts and all(parts) else ()
        case cst.BinaryOperation(left=left, operator=cst.Add(), right=right):
            both = _models(source, left), _models(source, right)
            return (*both[0], *both[1]) if all(both) else ()
        case _:
            return ()


def _target(source: Source, call: cst.Call) -> str | None:
    """The name that the very object is assigned to."""
    try:
        statement = source.statement(call)
    except NoEdit:
        return None
    if isinstance(statement, cst.AnnAssign):
        return source.code(statement.target) if statement.value is call and simple(statement.target) else None
    if not isinstance(statement, cst.Assign) or len(statement.targets) != 1:
        return None
    target: cst.BaseExpression = statement.targets[0].target
    if statement.value is call:
        return source.code(target) if simple(target) else None
    if isinstance(statement.value, cst.Tuple) and isinstance(target, cst.Tuple):
        pairs = zip(target.elements, statement.value.elements, strict=False)
        found = next((left.value for left, right in pairs if right.value is call), None)
        return source.code(found) if found is not None and simple(found) else None
    return None


# ------------------------------------------------------------------------------------------------------ learning rate


def lower_lr(source: Source, weave: Weave, made: Sequence[Made], factor: float) -> None:
    """lr in every construction, and in the groups written out there, multiplied."""
    _undisturbed(source, made)
    for call in source.calls:
        name = source.full(call.func).rpartition(".")[2]
        given = {arg.keyword.value for arg in call.args if arg.keyword is not None}
        most = {"OneCycleLR": 0, "CyclicLR": 0, "CosineAnnealingLR": 2, "CosineAnnealingWarmRestarts": 3}
        if given & ABSOLUTE or len(call.args) > most.get(name, len(call.args)):
            raise NoEdit("a schedule holds learning rates of its own")
    written: set[int] = set()
    for each in made:
        lr = argument(each.call, 1, "lr")
        groups = _groups(each.call)
        if lr is not None:
            multiply(source, weave, lr.value, factor)
        elif groups and all(any(_key(e) == "lr" for e in group.elements) for group in groups):
            pass  # no group takes the default
        elif each.kind is None or any(arg.star for arg in each.call.args):
            raise NoEdit("the learning rate can't be seen")
        else:
            _add(source, weave, each.call, f"lr={_number(DEFAULT_LR[each.kind] * factor)}")
        for group in groups:
            value = next((element.value for element in group.elements if _key(element) == "lr"), None)
            if value is not None:
                multiply(source, weave, value, factor)
                written.add(source.span(value)[0])
            if any(isinstance(element, cst.StarredDictElement) for element in group.elements):
                raise NoEdit("a group's learning rate can't be seen")
    for key in re.finditer(r"""["']lr["']\s*:\s*""", source.text):
        if key.end() not in written and not all(each.alone for each in made):
            raise NoEdit("groups with learning rates of their own are made elsewhere")


def multiply(source: Source, weave: Weave, value: cst.BaseExpression, factor: float) -> None:
    start, end = source.span(value)
    text = source.text[start:end]
    if isinstance(value, cst.Float | cst.Integer):
        weave.replace(start, end, _number(float(text.replace("_", "")) * factor))
        return
    bare = (
        value.expression if isinstance(value, cst.UnaryOperation) and isinstance(value.operator, cst.Minus) else value
    )
    tight = isinstance(bare, cst.Name | cst.Attribute | cst.Call | cst.Subscript) or (
        isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Multiply | cst.Divide)
    )
    tight = tight and not value.lpar
    weave.replace(start, end, f"{text} * {_number(factor)}" if tight else f"({text}) * {_number(factor)}")


def _add(source: Source, weave: Weave, call: cst.Call, text: str) -> None:
    """One more keyword argument."""
    if not call.args:
        raise NoEdit("an optimizer without parameters")
    _, end = source.span(call.args[-1])
    weave.replace(end, end, f", {text}")


def _groups(call: cst.Call) -> list[cst.Dict]:
    """The parameter groups written out in the first argument."""
    first = argument(call, 0, "params")
    if first is None or not isinstance(first.value, cst.List | cst.Tuple):
        return []
    return [element.value for element in first.value.elements if isinstance(element.value, cst.Dict)]


def _key(element: cst.BaseDictElement) -> str | None:
    key = element.key if isinstance(element, cst.DictElement) else None
    return key.raw_value if isinstance(key, cst.SimpleString) else None


def _undisturbed(source: Source, made: Sequence[Made]) -> None:
    """Raises NoEdit where what a construction says is written over later."""
    if not made:
        raise NoEdit("the construction is not in this file")
    if STEP_SIZE.search(source.text):
        raise NoEdit("the script sets learning rates by itself")
    for call in source.calls:
        owner = method(call, "load_state_dict")
        if owner is None or source.code(owner).rpartition(".")[2] in _model_names(made):
            continue
        if not _of_a_neighbour(call) or source.code(owner) in {each.target for each in made}:
            raise NoEdit("a checkpoint may bring the old values back")


def _of_a_neighbour(call: cst.Call) -> bool:
    """Whether the state that is loaded is that of a neighbour, as a target network gets it."""
    given = argument(call, 0, "state_dict")
    return given is not None and isinstance(given.value, cst.Call) and method(given.value, "state_dict") is not None


def _model_names(made: Sequence[Made]) -> set[str]:
    return {model.rpartition(".")[2] for each in made for model in each.models} | {"model", "net", "ema"}


def _number(value: float) -> str:
    """As someone would type it: 0.045, not 0.045000000000000005."""
    return f"{value:.12g}"


# ------------------------------------------------------------------------------------------------- constants, warm-up


def optimizer_defaults(source: Source, weave: Weave, made: Sequence[Made]) -> None:
    """Decay rates and epsilons left out of every construction."""
    _undisturbed(source, made)
    changed = False
    for each in made:
        args = each.call.args
        positional = sum(1 for arg in args if arg.keyword is None)
        keys = {_key(element) for group in _groups(each.call) for element in group.elements}
        named = {arg.keyword.value for arg in args if arg.keyword is not None}
        if any(arg.star for arg in args) or keys & set(CONSTANTS) or each.kind is None:
            raise NoEdit("the constants can't be seen")
        if positional > 2 and each.kind != "SGD":
            raise NoEdit("the constants are given by position")
        if not named & set(CONSTANTS):
            continue
        changed = True
        kept = [arg for arg in args if arg.keyword is None or arg.keyword.value not in CONSTANTS]
        if not kept:
            raise NoEdit("an optimizer without parameters")
        for index, arg in enumerate(args):
            if arg in kept:
                continue
            if any(later in kept for later in args[index + 1 :]):
                weave.replace(source.span(arg)[0], source.span(args[index + 1])[0], "")
            else:
                weave.replace(source.span(args[index - 1])[1], source.span(arg)[1], "")
    if not changed:
        raise NoEdit("no constant is given")


def constant(source: Source, weave: Weave, made: Sequence[Made], name: str, value: float) -> None:
    """`eps` at least, or the second of `betas` at most, what is asked for."""
    _undisturbed(source, made)
    key, place = ("eps", None) if name == "higher_eps" else ("betas", 1)
    changed = False
    for each in made:
        if each.kind not in CONSTANT_OF[key] or any(arg.star for arg in each.call.args):
            raise NoEdit(f"{each.kind} takes no {key}, or it can't be seen")
        if any(_key(element) == key for group in _groups(each.call) for element in group.elements):
            raise NoEdit("a group has constants of its own")
        if sum(1 for arg in each.call.args if arg.keyword is None) > 2:
            raise NoEdit("the constants are given by position")
        given = argument(each.call, -1, key)
        if given is None:
            _add(source, weave, each.call, f"eps={value:g}" if place is None else f"betas=(0.9, {value:g})")
            changed = True
            continue
        number: cst.BaseExpression = given.value
        if place is not None:
            if not isinstance(number, cst.Tuple) or len(number.elements) != 2:
                raise NoEdit("betas are no pair written out")
            number = number.elements[place].value
        if not isinstance(number, cst.Float | cst.Integer):
            raise NoEdit(f"{key} is no number written out")
        old = float(number.value.replace("_", ""))
        if (old < value) if place is None else (old > value):
            weave.replace(*source.span(number), f"{value:g}")
            changed = True
    if not changed:
        raise NoEdit(f"{key} is there already")


def warmup(
    source: Source, weave: Weave, made: Sequence[Made], steps: Sequence[tuple[str, cst.CSTNode]], length: float
) -> None:
    """A LinearLR below each construction, stepped below each step of its optimizer.

    At step t it gives 1/N + (1 - 1/N) t / (N - 1) = (t + 1) / N up to t = N - 1, the factor of the remedy.
    """
    _undisturbed(source, made)
    if length != int(length) or length < 2:
        raise NoEdit("LinearLR counts whole steps")
    if re.search(r"lr_scheduler|schedule|\w+LR\(", source.text, re.IGNORECASE):
        raise NoEdit("there is a schedule already")
    count = int(length)
    for text, statement in steps:
        if not any(each.target == text for each in made):
            raise NoEdit(f"it can't be seen where {text} is made")
        del statement
    for each in made:
        own = [statement for text, statement in steps if text == each.target]
        if each.target is None or not own:
            raise NoEdit("it can't be seen where this optimizer steps")
        home = source.statement(each.call)
        if not all(reaches(source, home, each.target, statement) for statement in own):
            raise NoEdit("the schedule could not be seen where the optimizer steps")
        name = _schedule_name(source, made, each.target)
        scheduler = spelled(source, weave, "torch.optim.lr_scheduler.LinearLR", (home,))
        weave.around(home).after.append(
            f"{name} = {scheduler}({each.target}, start_factor=1 / {count}, total_iters={count - 1})"
        )
        for statement in own:
            weave.around(statement).after.append(f"{name}.step()")


def _schedule_name(source: Source, made: Sequence[Made], target: str) -> str:
    owner, _, last = target.rpartition(".")
    plain = re.sub(r"\W+", "_", last).strip("_")
    name = source.fresh(*(("warmup", "lr_warmup") if len(made) == 1 else ()), f"warmup_{plain}", f"warmup_of_{plain}")
    return f"{owner}.{name}" if owner else name


def reaches(source: Source, home: cst.CSTNode, target: str, step: cst.CSTNode) -> bool:
    """Whether what is assigned below `home` has a value wherever `step` runs."""
    if not source.seen_from(target, home, step):
        return False
    block = source.block(home)
    if target.startswith("self."):
        function = source.nearest(home, cst.FunctionDef)
        return function is not None and function.name.value == "__init__" and function.body is block
    return block is source.tree or block in list(source.above(step))


# ------------------------------------------------------------------------------------------------------ initialisation


def initialise(source: Source, weave: Weave, made: Sequence[Made], name: str) -> None:
    """Above the construction, every layer of the model is filled anew."""
    if not made:
        raise NoEdit("the construction is not in this file")
    if RESTORED.search(source.text) or re.search(r"\.weight\s*=\s*[\w.]+\.weight|Lazy", source.text):
        raise NoEdit("weights that were loaded, or that two layers share, would be lost")
    if re.search(r"\.half\(|\.bfloat16\(|\.to\([^)]*float16|set_default_dtype", source.text):
        raise NoEdit("half-precision weights can't be filled this way")
    homes: dict[int, tuple[cst.BaseSmallStatement, list[str]]] = {}
    for each in made:
        if not each.models or any("." in model.removeprefix("self.") or model == "self" for model in each.models):
            raise NoEdit("it can't be seen which model is trained")
        home = source.statement(each.call)
        models = homes.setdefault(id(home), (home, []))[1]
        models += [model for model in each.models if model not in models]
    for home, models in homes.values():
        for call in source.calls:
            drawn = source.full(call.func).startswith("torch.nn.init.") or method(call, "apply") is not None
            if drawn and source.after(call, home):
                raise NoEdit("the script initialises later than this")
        weave.around(home).before.extend(_filling(source, weave, home, models, name))


def _filling(source: Source, weave: Weave, home: cst.CSTNode, models: Sequence[str], name: str) -> list[str]:
    nn = spelled(source, weave, "torch.nn", (home,))
    call = {"he_init": "kaiming_normal_", "xavier_init": "xavier_normal_", "orthogonal_init": "orthogonal_"}[name]
    more = ', nonlinearity="relu"' if name == "he_init" else ""
    foreign = not top_imports(source) <= PLAIN  # layers may come from a file we don't see
    kinds = [layer for layer in LAYERS if layer == "Linear" or layer in source.names]
    classes = [f"{nn}.{kind}" for kind in kinds]
    if foreign:
        classes = [f"{nn}.Linear", f"{nn}.Bilinear", f"{nn}.modules.conv._ConvNd"]
    layer = source.fresh("layer", "each_layer")
    modules = ", ".join(f"*{model}.modules()" for model in models)
    lines = [
        f"for {layer} in {f'{models[0]}.modules()' if len(models) == 1 else f'({modules})'}:",
        f"\tif isinstance({layer}, {classes[0] if len(classes) == 1 else '(' + ', '.join(classes) + ')'}):",
        f"\t\t{nn}.init.{call}({layer}.weight{more})",
    ]
    if name != "he_init" and (foreign or source.names & RECURRENT):
        key, weight, gate = (source.fresh(word, f"{layer}_{word}") for word in ("key", "weight", "gate"))
        lines += [
            f"\telif isinstance({layer}, ({nn}.RNNBase, {nn}.RNNCellBase)):",
            f"\t\tfor {key}, {weight} in {layer}.named_parameters():",
            f'\t\t\tif {key}.startswith("weight_"):',
            f"\t\t\t\tfor {gate} in {weight}.data.split({layer}.hidden_size):",
            f"\t\t\t\t\t{nn}.init.{call}({gate})",
        ]
    return lines


def top_imports(source: Source) -> set[str]:
    found = set()
    for node in source.imported:
        if isinstance(node, cst.ImportFrom):
            found.add("." if node.relative or node.module is None else source.code(node.module).partition(".")[0])
        else:
            found.update(source.code(alias.name).partition(".")[0] for alias in node.names)
    return found


def spelled(source: Source, weave: Weave, full: str, near: Sequence[cst.CSTNode]) -> str:
    """How the file says a name of torch, or of gradbelt, at all of these places; an import is added where it can't."""
    root = full.partition(".")[0]
    ways = {source.spelled(full, node) for node in near}
    way = ways.pop() if len(ways) == 1 else None
    if way is not None:
        return way
    if root in source.names and source.bindings(root):
        raise NoEdit(f"the name {root} stands for something else")
    weave.needs.setdefault(root, []).extend(near)
    return full
