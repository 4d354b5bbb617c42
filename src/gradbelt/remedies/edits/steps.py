"""Edits where gradients are made and used: clipping, guards and clearing around `backward` and `step`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from gradbelt._types import WINDOW
from gradbelt.remedies.edits.made import Made, multiply, reaches, spelled
from gradbelt.remedies.edits.source import NoEdit, Source, argument, method, simple
from gradbelt.remedies.edits.weave import Around, Weave
from gradbelt.remedies.skip_spike import KNOWN

WRAPPERS = {"accelerate", "apex", "deepspeed", "fairscale", "horovod", "ignite", "lightning", "pytorch_lightning"}
"""Libraries whose optimizers don't step each time `step` is called."""


GRADIENT = re.compile(r"([A-Za-z_][\w.]*)\.grad\b")
CLEARED = re.compile(r"[\w.]+\.grad(\.data)?(\.zero_\(\)|\.detach_\(\)|\s*=\s*None|\s+is\s+(not\s+)?None)")
UPDATE = re.compile(r"([\w.]+?)(\.data)?(\s*[-+]=|\.(add|sub|addcdiv|addcmul|copy)_\()|([\w.]+)\.data\s*=[^=]")


@dataclass(frozen=True, slots=True)
class Use:
    """One place where gradients are about to be used."""

    statement: cst.CSTNode  # edits go right above it; of a closure, the backward that they go right below
    below: bool
    optimizer: str | None  # what `step` is called on; None in a loop without optimizer
    scaler: str | None
    model: str | None  # M, where `M.parameters()` is all that is trained here
    tensors: tuple[str, ...] = ()  # trained by hand, not by a model's name; `*` before what holds several
    whole: bool = True  # the statement is all that uses the gradients


def uses(source: Source, steps: tuple[int, ...], backwards: tuple[int, ...], made: Sequence[Made]) -> tuple[Use, ...]:
    """Every place that the run was seen to step at. Raises NoEdit where one of them is not understood."""
    if any(name in WRAPPERS for name in _imported(source)):
        raise NoEdit("a library stands between the script and its optimizer")
    if not steps:
        return (_by_hand(source, backwards),)
    found: list[Use] = []
    for line in steps:
        calls = [call for call in source.at((line,)) if method(call, "step") is not None]
        known = [call for call in calls if any(_optimizer(source, call) == each.target for each in made)]
        if not known and len(calls) != 1:
            raise NoEdit("it can't be seen which call is the optimizer's")
        for call in known or calls:
            use = _use(source, call, backwards, made)
            if all(use.statement is not other.statement for other in found):
                found.append(use)
    return tuple(found)


def _imported(source: Source) -> set[str]:
    return {source.code(node).split()[1].partition(".")[0] for node in source.imported}


def _is_scaler(source: Source, call: cst.Call) -> bool:
    owner = method(call, "step")
    if owner is None or len(call.args) != 1:
        return False
    text = source.code(owner)
    made = re.search(rf"{re.escape(text)}\s*=\s*[\w.]*GradScaler\(", source.text)
    return made is not None or text.lower().endswith("scaler")


def _optimizer(source: Source, call: cst.Call) -> str | None:
    """What steps: X in `X.step()` and in `scaler.step(X)`."""
    owner: cst.BaseExpression | None = call.args[0].value if _is_scaler(source, call) else method(call, "step")
    return source.code(owner) if owner is not None and simple(owner) else None


def _use(source: Source, call: cst.Call, backwards: tuple[int, ...], made: Sequence[Made]) -> Use:
    text = _optimizer(source, call)
    if text is None:
        raise NoEdit("the optimizer can't be named")
    scaler = source.code(call.func.value) if _is_scaler(source, call) and isinstance(call.func, cst.Attribute) else None
    statement = source.statement(call)
    if isinstance(statement, cst.Expr | cst.Assign) and statement.value is not call:
        raise NoEdit("the step is part of something larger")
    if not isinstance(statement, cst.Expr | cst.Assign):
        raise NoEdit("the step is no statement of its own")
    below = False
    place: cst.CSTNode = statement
    if scaler is None and call.args:
        place, below = _backward_in_closure(source, call, backwards), True
    linked = [
        each for each in made if each.target == text and source.seen_from(text, source.statement(each.call), statement)
    ]
    model = None
    if len(linked) == 1 and linked[0].alone:
        name, home = linked[0].models[0], source.statement(linked[0].call)
        if name != "self" and source.seen_from(name, home, place):
            model = name
    return Use(place, below, text, scaler, model)


def _backward_in_closure(source: Source, call: cst.Call, backwards: tuple[int, ...]) -> cst.CSTNode:
    """The statement that calls backward in the function that is handed to `step`."""
    given = argument(call, 0, "closure")
    if given is None or len(call.args) != 1 or not isinstance(given.value, cst.Name):
        raise NoEdit("step is called with something that is no named function")
    functions = source.bindings(given.value.value)
    if len(functions) != 1:
        raise NoEdit("it can't be seen which function step calls")
    function = source.nearest(functions[0], cst.FunctionDef)
    inside = [c for c in backward_calls(source, backwards) if source.nearest(c, cst.FunctionDef) is function]
    if len(inside) != 1 or function is None or function.name is not functions[0]:
        raise NoEdit("the function that step calls has not one backward of its own")
    return source.statement(inside[0])


def backward_calls(source: Source, lines: tuple[int, ...]) -> list[cst.Call]:
    return [call for call in source.at(lines) if method(call, "backward") is not None]


# --------------------------------------------------------------------------------------------- loops without optimizer


def _by_hand(source: Source, backwards: tuple[int, ...]) -> Use:
    """What updates the weights below the backward of a loop that has no optimizer."""
    calls = backward_calls(source, backwards)
    if len(backwards) != 1 or len(calls) != 1:
        raise NoEdit("there is neither one optimizer nor one backward")
    trained: list[str] = []
    places: list[cst.CSTNode] = []
    for statement in source.below(source.statement(calls[0])):
        found = _trained(source, statement)
        trained += [text for text in found if text not in trained]
        places += [statement] if found else []
    if not places:
        raise NoEdit("it can't be seen what the loop updates")
    whole = re.fullmatch(r"\*(.+)\.parameters\(\)", trained[0]) if len(trained) == 1 else None
    return Use(
        places[0], False, None, None, whole[1] if whole else None, () if whole else tuple(trained), len(places) == 1
    )


def _trained(source: Source, statement: cst.CSTNode) -> list[str]:
    """The tensors whose gradient is read, `*` before what holds several."""
    code = CLEARED.sub("", source.code(statement))
    if not re.search(r"\.grad\b", code):
        return []
    if isinstance(statement, cst.With):
        return [text for part in source.within(statement) for text in _trained(source, part)]
    if isinstance(statement, cst.For) and isinstance(statement.target, cst.Name):
        one, many = statement.target.value, statement.iter
        owner = method(many, "parameters") if isinstance(many, cst.Call) and not many.args else None
        if set(GRADIENT.findall(code)) == {one} and (
            isinstance(many, cst.Name) or (owner is not None and simple(owner))
        ):
            return [f"*{source.code(many)}"]
    if isinstance(statement, cst.BaseSmallStatement) and GRADIENT.search(code):
        return list(dict.fromkeys(GRADIENT.findall(code)))
    raise NoEdit("it can't be seen what the loop updates")


# --------------------------------------------------------------------------------------------------------------- edits


def parameters(use: Use) -> str:
    """An expression for what is trained, to iterate over."""
    if use.model is not None:
        return f"{use.model}.parameters()"
    if use.tensors:
        one, *more = use.tensors
        return one[1:] if one.startswith("*") and not more else f"[{', '.join(use.tensors)}]"
    return f'[p for group in {use.optimizer}.param_groups for p in group["params"]]'


def _each(use: Use) -> str:
    """`for p in ...`, for a generator over what is trained."""
    if use.model is None and not use.tensors:
        return f'for group in {use.optimizer}.param_groups for p in group["params"]'
    return f"for p in {parameters(use)}"


def clip(source: Source, weave: Weave, use: Use, limit: float, *, norm: bool) -> None:
    """Clips right before the gradients are used, or lowers the threshold of a clip that is there."""
    function = "clip_grad_norm_" if norm else "clip_grad_value_"
    if _lowered(source, weave, use, function, limit):
        return
    full = spelled(source, weave, f"torch.nn.utils.{function}", (use.statement,))
    lines = [f"{full}({parameters(use)}, {limit!r})"]
    if use.scaler is not None and not _unscaled(source, use):
        unscale = f"{use.scaler}.unscale_({use.optimizer})"
        if unscale not in weave.around(use.statement).inside:
            lines.insert(0, unscale)
    around = weave.around(use.statement)
    (around.after if use.below else around.inside).extend(lines)


def _unscaled(source: Source, use: Use) -> bool:
    """Whether the script unscales by itself, surely before this step."""
    for call in source.calls:
        if method(call, "unscale_") is not None and call.args and source.code(call.args[0].value) == use.optimizer:
            if any(source.statement(call) is other for other in source.before(use.statement)):
                return True
            if source.scopes(call)[0] is source.scopes(use.statement)[0]:
                raise NoEdit("the script unscales now and then")
    return False


def _lowered(source: Source, weave: Weave, use: Use, function: str, limit: float) -> bool:
    """Whether there is a clip of the same parameters in the same block; its threshold is now `limit` at most."""
    if use.model is None or use.below:
        return False
    for statement in source.before(use.statement):
        value = statement.value if isinstance(statement, cst.Expr | cst.Assign) else None
        if not isinstance(value, cst.Call):
            continue
        if method(value, "backward") is not None:
            return False
        if not source.full(value.func).endswith(function) or len(value.args) != 2:
            continue
        first = argument(value, 0, "parameters")
        old = argument(value, 1, "max_norm" if function == "clip_grad_norm_" else "clip_value")
        if first is None or old is None or source.code(first.value) != parameters(use):
            continue
        start, end = source.span(old.value)
        if not isinstance(old.value, cst.Float | cst.Integer):
            weave.replace(start, end, f"min({source.text[start:end]}, {limit!r})")
            return True
        if float(old.value.value) <= limit:
            raise NoEdit("the script clips lower than that already")
        weave.replace(start, end, repr(limit))
        return True
    return False


def skip_step(source: Source, weave: Weave, use: Use) -> None:
    """The step, and what is done to the gradients for it, under a condition: all of them finite."""
    if use.scaler is not None or use.below:
        raise NoEdit("a GradScaler leaves such steps out already; a closure can't be left half-way")
    _dense(source)
    finite = spelled(source, weave, "torch.isfinite", (use.statement,))
    around = weave.around(use.statement)
    around.condition = f"all(p.grad is None or {finite}(p.grad).all() {_each(use)})"
    if use.optimizer is None:
        if not use.whole:
            raise NoEdit("the weights are updated in several places")
        _one_update(source, use.statement)
    elif not isinstance(use.statement, cst.Expr):
        raise NoEdit("the answer of step is used")


def skip_spike(source: Source, weave: Weave, use: Use, made: Sequence[Made], multiple: float) -> None:
    """The step under a condition: its gradient's norm below a multiple of the median of those that were let through."""
    around = weave.around(use.statement)
    if use.scaler is not None or use.below or around.condition is not None or around.inside:
        raise NoEdit("the norm of what is stepped on can't be told")
    if use.optimizer is None and not use.whole:
        raise NoEdit("the weights are updated in several places")
    if use.optimizer is not None and not isinstance(use.statement, cst.Expr):
        raise NoEdit("the answer of step is used")
    _dense(source)
    homes = [source.statement(each.call) for each in made if each.target is not None and each.target == use.optimizer]
    home = homes[0] if len(homes) == 1 else None
    if home is None or "." in (use.optimizer or ".") or not reaches(source, home, use.optimizer or "", use.statement):
        raise NoEdit("what is remembered from step to step has no place")
    norms, norm = weave.fresh("norms"), weave.fresh("norm")
    clip, median = (
        spelled(source, weave, full, (use.statement,))
        for full in ("torch.nn.utils.clip_grad_norm_", "statistics.median")
    )
    weave.around(home).after.append(f"{norms} = []")
    usual = f"{multiple:g} * {median}({norms}[-{WINDOW}:]) if len({norms}) >= {KNOWN} else float('inf')"
    around.before.append(f"{norm} = float({clip}({parameters(use)}, float('inf')))")
    around.condition = f"{norm} < ({usual})"
    around.inside.append(f"{norms}.append({norm})")


def lower_by_hand(source: Source, weave: Weave, use: Use, factor: float) -> None:
    """What an update written by hand takes off the weights, multiplied."""
    if not use.whole:
        raise NoEdit("the weights are updated in several places")
    body = _one_update(source, use.statement)
    if isinstance(body, cst.AugAssign):
        multiply(source, weave, body.value, factor)
        return
    call = body.value if isinstance(body, cst.Expr) else None
    if not isinstance(call, cst.Call) or not (method(call, "add_") or method(call, "sub_")) or len(call.args) > 2:
        raise NoEdit("it can't be seen how large the update is")
    alpha = argument(call, -1, "alpha")
    if alpha is not None:
        multiply(source, weave, alpha.value, factor)
    elif len(call.args) == 1:
        _, end = source.span(call.args[0])
        weave.replace(end, end, f", alpha={factor:.12g}")
    else:
        raise NoEdit("it can't be seen how large the update is")


def _one_update(source: Source, statement: cst.CSTNode) -> cst.BaseSmallStatement:
    """The statement `p -= lr * p.grad`, for one p or each. Raises NoEdit where there is more."""
    body = statement
    while isinstance(body, cst.With | cst.For):
        inner = source.within(body)
        if len(inner) != 1 or (isinstance(body, cst.For) and body.orelse is not None):
            raise NoEdit("the loop does more than update")
        body = inner[0]
    if not isinstance(body, cst.BaseSmallStatement) or not UPDATE.match(source.code(body)):
        raise NoEdit("it is no update")
    return body


def zero_nan(source: Source, weave: Weave, use: Use) -> None:
    """Every element that is not finite becomes zero, above all else that is done before the step."""
    if use.scaler is not None:
        raise NoEdit("a GradScaler leaves such steps out already")
    _dense(source)
    function = spelled(source, weave, "torch.nan_to_num_", (use.statement,))
    p, group = source.fresh("p", "param", "each_p"), source.fresh("group", "each_group")
    inner = [f"if {p}.grad is not None:", f"\t{function}({p}.grad, nan=0.0, posinf=0.0, neginf=0.0)"]
    if use.model is not None or use.tensors:
        lines = [f"for {p} in {parameters(use)}:", *(f"\t{line}" for line in inner)]
    else:
        lines = [f"for {group} in {use.optimizer}.param_groups:", f'\tfor {p} in {group}["params"]:']
        lines += [f"\t\t{line}" for line in inner]
    around = weave.around(use.statement)
    if use.below:
        around.after[:0] = lines
    else:
        around.before[:0] = lines


def _dense(source: Source) -> None:
    if re.search(r"sparse\s*=\s*True|SparseAdam", source.text):
        raise NoEdit("sparse gradients")


def zero_grad(source: Source, weave: Weave, found: Sequence[Use], backwards: tuple[int, ...]) -> None:
    """Used gradients are cleared: above the backward where there is one for each step, else below the step; only those
    that the script doesn't clear by itself."""
    calls = backward_calls(source, backwards)
    left = [use for use in found if not _clears(source, use, calls)]
    if not left:
        raise NoEdit("the script clears already")
    for use in left:
        if use.below or use.optimizer is None:
            raise NoEdit("what a closure has used can't be told")
        line = f"{use.optimizer}.zero_grad()"
        if len(found) == len(backwards) == len(calls) == 1:
            statement = source.statement(calls[0])
            if any(other is statement for other in source.before(use.statement)):
                around: Around = weave.around(statement)
                around.before.append(line)
                continue
        weave.around(use.statement).after.insert(0, line)


def _clears(source: Source, use: Use, backwards: Sequence[cst.Call]) -> bool:
    """Whether the script clears what this step uses, next to the step or to a backward."""
    places = (use.statement, *(source.statement(call) for call in backwards))
    near = [other for place in places for other in (*source.before(place), *source.below(place))]
    return any(source.code(other) in (f"{use.optimizer}.zero_grad()", f"{use.model}.zero_grad()") for other in near)


def half_off(source: Source, weave: Weave) -> None:
    """Autocast turned off, where it is all that the script has of half precision."""
    names = ("torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast", "torch.cuda.amp.autocast")
    calls = [call for call in source.calls if source.full(call.func) in names]
    if not calls or "autocast" not in source.names:
        raise NoEdit("no autocast")
    rest = source.text
    for call in calls:
        rest = rest.replace(source.code(call), "")
    if re.search(r"\.half\b|float16|bfloat16|\.type\(|autocast\(|set_default", rest):
        raise NoEdit("there is more of half precision than autocast")
    for call in calls:
        cuda = source.full(call.func) == "torch.cuda.amp.autocast"
        given = argument(call, 0 if cuda else 2, "enabled")
        if any(arg.star for arg in call.args):
            raise NoEdit("it can't be seen whether autocast is on")
        if given is None and call.args:
            _, end = source.span(call.args[-1])
            weave.replace(end, end, ", enabled=False")
        elif given is None:
            _, end = source.span(call)
            weave.replace(end - 1, end - 1, "enabled=False")
        else:
            weave.replace(*source.span(given.value), "False")
