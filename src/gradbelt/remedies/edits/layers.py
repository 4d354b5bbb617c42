"""Edits where layers are constructed: gates in recurrent layers, norms in an nn.Sequential."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst
import libcst.matchers as m

from gradbelt.remedies.edits.made import PLAIN, RESTORED, top_imports
from gradbelt.remedies.edits.source import NoEdit, Source, argument
from gradbelt.remedies.edits.weave import Weave

GATED = {"RNN": "GRU", "RNNCell": "GRUCell"}
ACTIVATIONS = {
    "ReLU", "ReLU6", "LeakyReLU", "GELU", "SiLU", "Mish", "ELU", "SELU", "CELU", "PReLU", "Sigmoid", "Tanh", "Hardtanh",
    "Hardswish", "Hardsigmoid", "Softplus", "Softsign",
}  # fmt: skip
WEIGHTED = ("Linear", "Bilinear", "Conv", "RNN", "GRU", "LSTM", "Embedding", "MultiheadAttention", "Transformer")
PASSING = ("Dropout", "Flatten", "Unflatten", "Identity", "MaxPool", "AvgPool")


def gated_rnn(source: Source, weave: Weave) -> None:
    """nn.GRU for nn.RNN and nn.GRUCell for nn.RNNCell, wherever one is constructed."""
    _all_is_here(source)
    calls = [call for call in source.calls if _kind(source, call) in GATED]
    named = m.findall(source.tree, m.Name(m.MatchIfTrue(GATED.__contains__)))
    if not calls or len(named) != len(calls):
        raise NoEdit("a plain recurrent layer is named other than to construct it")
    for call in calls:
        positional = [arg for arg in call.args if arg.keyword is None]
        if any(arg.star for arg in call.args) or len(positional) > 3 or not isinstance(call.func, cst.Attribute):
            raise NoEdit("the nonlinearity can't be seen")
        start, end = source.span(call.func.attr)
        weave.replace(start, end, GATED[call.func.attr.value])
        for before, arg in zip(call.args, call.args[1:], strict=False):
            if arg.keyword is not None and arg.keyword.value == "nonlinearity":
                weave.replace(source.span(before)[1], source.span(arg)[1], "")


def norm_layer(source: Source, weave: Weave) -> None:
    """A norm between layer and activation in every nn.Sequential, where all layers of the file stand in such ones."""
    _all_is_here(source)
    listed: set[int] = set()
    last = found = 0
    for call in source.calls:
        if _kind(source, call) != "Sequential":
            continue
        for arg, following in zip(call.args, _following(source, call.args), strict=True):
            if not isinstance(arg.value, cst.Call) or not _weighs(_kind(source, arg.value)):
                continue
            listed.add(id(arg.value))
            if following is None:
                last += 1
            elif following in ACTIVATIONS or _weighs(following):
                at = source.span(arg)[1]
                weave.replace(at, at, f", {_norm(source, arg.value)}")
                found += 1
            elif not following.endswith(("Norm", "Norm1d", "Norm2d", "Norm3d")):
                raise NoEdit(f"what comes before {following} can't be judged")
    hidden = [call for call in source.calls if _weighs(_kind(source, call)) and id(call) not in listed]
    if hidden or last != 1 or not found:
        raise NoEdit("not all layers stand in one nn.Sequential")


def _all_is_here(source: Source) -> None:
    """Raises NoEdit where layers may come from another file or their weights from a checkpoint."""
    if not top_imports(source) <= PLAIN:
        raise NoEdit("layers may come from another file")
    if RESTORED.search(source.text):
        raise NoEdit("a checkpoint would not fit")


def _kind(source: Source, call: cst.Call) -> str:
    """The class of torch.nn that is constructed; "" for anything else."""
    full = source.full(call.func)
    return full.removeprefix("torch.nn.") if full.startswith("torch.nn.") and full.count(".") == 2 else ""


def _weighs(kind: str) -> bool:
    return kind.startswith(WEIGHTED)


def _following(source: Source, args: Sequence[cst.Arg]) -> list[str | None]:
    """For each element the class of the next one that does more than move values about."""
    if any(arg.star or arg.keyword is not None or not isinstance(arg.value, cst.Call) for arg in args):
        raise NoEdit("the elements can't all be seen")
    kinds = [_kind(source, arg.value) for arg in args if isinstance(arg.value, cst.Call)]
    if "" in kinds:
        raise NoEdit("an element is none of torch's own")
    return [
        next((kind for kind in kinds[i + 1 :] if not kind.startswith(PASSING)), None) for i in range(len(kinds))
    ]  # fmt: skip


def _norm(source: Source, layer: cst.Call) -> str:
    if _kind(source, layer) != "Linear" or not isinstance(layer.func, cst.Attribute):
        raise NoEdit("only linear layers")
    size = argument(layer, 1, "out_features")
    if size is None:
        raise NoEdit("the layer's size can't be seen")
    return f"{source.code(layer.func.value)}.LayerNorm({source.code(size.value)}, elementwise_affine=False)"
