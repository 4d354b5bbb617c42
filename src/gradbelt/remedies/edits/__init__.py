"""The edit of a user's own file that does permanently what remedies did from outside, as a diff.

A diff is made where the file itself shows that it does the same as the trial did; where it doesn't, there is none.
The rest of the file stays byte for byte.
"""

from __future__ import annotations

import ast
import functools
import io
import math
import os
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import libcst as cst

from gradbelt._told import tell
from gradbelt._types import RunRecord
from gradbelt.blackbox import load_run
from gradbelt.clip import Norm, Value, from_string
from gradbelt.clip.agc import HEADS
from gradbelt.errors import UnreadableRecord
from gradbelt.remedies import Remedy, parse
from gradbelt.remedies.activation_swap import SLOPE
from gradbelt.remedies.clip_norm import ClipNorm
from gradbelt.remedies.clip_value import ClipValue
from gradbelt.remedies.edits import acted, data, layers, models, scale, time
from gradbelt.remedies.edits import made as constructions
from gradbelt.remedies.edits import steps as updates
from gradbelt.remedies.edits.source import NoEdit, Source
from gradbelt.remedies.edits.weave import Weave, difference
from gradbelt.remedies.gated_rnn import WRITTEN
from gradbelt.remedies.lsuv import PASSES, TOLERANCE
from gradbelt.remedies.normalise_input import BOUND
from gradbelt.remedies.qk_norm import EPS
from gradbelt.supervise.deeds import ACTED

BOM = "\ufeff"
AT_STEP = ("clip_norm", "clip_value", "skip_step", "skip_spike", "skip_batch", "zero_nan", "zero_grad", "warmup")
AT_LINES = (
    "eps_in_op", "mask_fix", "loss_reduction", "impute_data", "normalise_input", "normalise_target", "skip_batch",
    "loss_scale", "truncated_bptt", "qk_norm", "logit_scaling",
)  # fmt: skip
MOST = 3  # lines that are named where an edit has to be made by hand
ON_MODEL = ("activation_swap", "lsuv", "skip_connection", "residual_scale")
INITS = ("he_init", "xavier_init", "orthogonal_init")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Lines of the script's own file, as a run was seen to pass them. Of each kind all lines or none: half an edit is
    a wrong one."""

    steps: tuple[int, ...] = ()  # optimizer.step(); none in a loop that has no optimizer
    backwards: tuple[int, ...] = ()  # loss.backward()
    made: tuple[int, ...] = ()  # optimizers that stepped were constructed here
    deeds: tuple[acted.Deed, ...] | None = None  # of remedies that act on lines; None: not all in this file
    spared: tuple[str, ...] | None = None  # patterns of what `agc` left alone beside the usual heads; None: not known
    argv: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: RunRecord, own: str | None = None) -> Sites:
        """What the black box noted of the file `own`; None: the script's.

        Without the steps there are no backwards either, or it would look like a loop without optimizer.
        """
        own = own or _script(record).name
        meta = record.meta
        stepped = _texts(meta.get("steps_at"))
        streams = dict.fromkeys(where for row in record.steps for where in row.losses)
        steps, made = _lines(stepped, own), _lines(_texts(meta.get("made_at")), own)
        hidden = (stepped and not steps) or (not stepped and any(row.optimizer >= 0 for row in record.steps))
        return cls(
            steps=steps,
            backwards=() if hidden else _lines(list(streams), own),
            made=made,
            spared=_spared(record),
            argv=tuple(_texts(meta.get("argv"))),
        )


def patch(script: Path, remedies: Sequence[Remedy], sites: Sites, *, shown_as: str) -> str | None:
    """The unified diff (`patch -p1`) of the script with all of `remedies` written into it; None where no honest edit is
    known.

    Args:
        script: Python in UTF-8. sites: From the run that the remedies were tried on. shown_as: The file's name in the
        diff, relative to the folder where it is to be applied.
    """
    try:
        old = _read(script)
        new = edited(old.removeprefix(BOM), remedies, sites)
    except (NoEdit, OSError, UnicodeDecodeError, SyntaxError, cst.ParserSyntaxError, RecursionError):
        return None
    new = BOM + new if old.startswith(BOM) else new
    return difference(old, new, shown_as) or None


def edited(text: str, remedies: Sequence[Remedy], sites: Sites) -> str:
    """The text with the edits of all remedies in it. Raises NoEdit."""
    source = _parsed(text)
    weave = Weave(source)
    made = constructions.constructions(source, sites.made)
    found: tuple[updates.Use, ...] = ()
    by_hand = not made and not sites.steps and any(remedy.name == "lower_lr" for remedy in remedies)
    if by_hand or any(remedy.name in AT_STEP for remedy in remedies):
        found = updates.uses(source, sites.steps, sites.backwards, made)
    for name, value in _together(remedies).items():
        _edit(name, value, source, weave, made, found, sites)
    text = weave.done()
    ast.parse(text)
    return text


@functools.lru_cache(maxsize=1)  # several prescriptions edit the same file, and parsing is what takes the time
def _parsed(text: str) -> Source:
    return Source(text)


def _together(remedies: Sequence[Remedy]) -> dict[str, float]:
    """Remedy -> its value, in their order. Learning rates' factors multiply; nothing else comes twice."""
    found: dict[str, float] = {}
    for remedy in remedies:
        value = float(getattr(remedy, "value", math.nan))
        if remedy.name in found and remedy.name != "lower_lr":
            raise NoEdit(f"{remedy.name} twice")
        found[remedy.name] = found.get(remedy.name, 1.0) * value
    if "skip_spike" in found and found.keys() & {"clip_norm", "clip_value", "agc"}:
        raise NoEdit("the belt remembers norms as they are after clipping")
    return found


def _edit(
    name: str,
    value: float,
    source: Source,
    weave: Weave,
    made: Sequence[constructions.Made],
    found: Sequence[updates.Use],
    sites: Sites,
) -> None:
    match name:
        case "clip_norm" | "clip_value":
            for use in found:
                updates.clip(source, weave, use, value, norm=name == "clip_norm")
        case "skip_step":
            for use in found:
                updates.skip_step(source, weave, use)
        case "skip_spike":
            for use in found:
                updates.skip_spike(source, weave, use, made, value)
        case "zero_nan":
            for use in found:
                updates.zero_nan(source, weave, use)
        case "zero_grad":
            updates.zero_grad(source, weave, found, sites.backwards)
        case "lower_lr" if not made and not sites.steps:
            for use in found:
                updates.lower_by_hand(source, weave, use, value)
        case "lower_lr":
            constructions.lower_lr(source, weave, made, value)
        case "optimizer_defaults":
            constructions.optimizer_defaults(source, weave, made)
        case "warmup":
            if any(use.below or use.scaler is not None or use.optimizer is None for use in found):
                raise NoEdit("the schedule would count other steps than the optimizer's")
            own = [(use.optimizer, use.statement) for use in found if use.optimizer is not None]
            constructions.warmup(source, weave, made, own, value)
        case "higher_eps" | "lower_beta2":
            constructions.constant(source, weave, made, name, value)
        case _ if name in AT_LINES or name in ON_MODEL:
            deeds = [deed for deed in sites.deeds or () if deed.remedy == name]
            if not deeds:
                raise NoEdit(f"it can't be seen where {name} acted")
            _edit_where_it_acted(name, value, deeds, source, weave, made, found, sites)
        case "agc":
            models.agc(source, weave, made, value, sites.spared)
        case "precision":
            updates.half_off(source, weave)
        case "gated_rnn":
            if any(deed.what == WRITTEN for deed in sites.deeds or ()):
                raise NoEdit("the script writes weights in the shape of a plain layer's")
            layers.gated_rnn(source, weave)
        case "norm_layer":
            layers.norm_layer(source, weave)
        case _ if name in INITS:
            if any(deed.remedy == name for deed in sites.deeds or ()):
                raise NoEdit("matrices that are no layer's are drawn, too")
            constructions.initialise(source, weave, made, name)
        case _:
            raise NoEdit(f"{name} stands for no edit of a few lines")


def _edit_where_it_acted(
    name: str,
    value: float,
    deeds: Sequence[acted.Deed],
    source: Source,
    weave: Weave,
    made: Sequence[constructions.Made],
    found: Sequence[updates.Use],
    sites: Sites,
) -> None:
    match name:
        case "eps_in_op":
            acted.eps_in_op(source, weave, deeds, value)
        case "mask_fix":
            acted.mask_fix(source, weave, deeds)
        case "loss_reduction":
            acted.loss_reduction(source, weave, deeds)
        case "impute_data":
            data.impute_data(source, weave, deeds)
        case "normalise_input":
            data.normalise_input(source, weave, deeds, BOUND)
        case "normalise_target":
            data.normalise_target(source, weave, deeds, sites.backwards)
        case "skip_batch":
            data.skip_batch(source, weave, deeds, found)
        case "loss_scale":
            scale.loss_scale(source, weave, deeds, value, sites.argv)
        case "qk_norm":
            acted.qk_norm(source, weave, deeds, EPS)
        case "logit_scaling":
            acted.logit_scaling(source, weave, deeds, value)
        case "truncated_bptt":
            time.truncated_bptt(source, weave, deeds, max(1, int(value)))
        case "activation_swap" if len(deeds) == 1:
            models.activation_swap(source, weave, made, deeds[0], deeds[0].ways, SLOPE)
        case "lsuv" if len(deeds) == 1:
            models.lsuv(source, weave, made, deeds[0], TOLERANCE, PASSES)
        case "skip_connection" if len(deeds) == 1:
            models.skip_connection(source, weave, made, deeds[0])
        case "residual_scale" if len(deeds) == 1:
            models.residual_scale(source, weave, made, deeds[0])
        case _:
            raise NoEdit(f"{name} acted in several ways")


def patches(record: RunRecord, *, clip: str | None = None) -> Callable[[tuple[str, ...]], str | None]:
    """For `prescribe`: remedies by name -> the diff of the recorded script, what it ran under already included.

    The script's own file is edited where it can be; else each file beside it that holds the lines of a remedy.
    """
    script = _script(record)
    cwd = Path(str(record.meta.get("cwd", ".")))
    files = [script.name, *_beside(record, cwd / script.parent, script.name)]

    def diff(names: tuple[str, ...]) -> str | None:
        texts = [*_texts(record.meta.get("remedies")), *names]
        done = _done(record, _trial(record, names))
        try:
            remedies = [*_belt(clip), *(remedy for text in texts for remedy in parse(text))]
        except NoEdit:
            return None

        def of(name: str, remedies: Sequence[Remedy]) -> str | None:
            path = cwd / script.parent / name
            relative = os.path.relpath(path, cwd)
            shown = Path(relative).as_posix() if not relative.startswith("..") else path.name
            return patch(path, remedies, replace(Sites.of(record, name), deeds=_deeds(done, name)), shown_as=shown)

        whole = of(script.name, remedies)
        if whole is not None or len(files) == 1:
            return whole
        homes: dict[str, list[Remedy]] = {}
        for remedy in remedies:
            home = next((name for name in files if of(name, [remedy]) is not None), None)
            if home is None or (remedy.name not in (*AT_STEP, *AT_LINES) and _disturbed(cwd / script.parent, files)):
                return None
            homes.setdefault(home, []).append(remedy)
        found = [of(name, each) for name, each in homes.items()]
        return "".join(each for each in found if each is not None) if all(found) else None

    return diff


def by_hand(record: RunRecord) -> Callable[[tuple[str, ...]], str]:
    """For `prescribe`: remedies by name -> what to change where no diff can be made, and on which lines."""

    def said(names: tuple[str, ...]) -> str:
        done = sorted(_done(record, _trial(record, names)), key=lambda each: -each.times)
        parts = []
        for remedy in (remedy for name in names for remedy in parse(name)):
            mine = [each for each in done if each.remedy == remedy.name]
            noted = "steps_at" if remedy.name in AT_STEP else "made_at"
            at = list(dict.fromkeys(each.where for each in mine if each.where)) or _texts(record.meta.get(noted))
            special: dict[str, str] = getattr(remedy, "EDITS", {})  # words for one of the things it does
            words = next((special[each.what] for each in mine if each.what in special), remedy.EDIT)
            edit = words.replace("{value}", f"{getattr(remedy, 'value', 1.0):g}")
            parts.append(tell("at {place}: {edit}", place=", ".join(at[:MOST]), edit=edit) if at else edit)
        if len(parts) == 1:
            return tell("to change by hand, {what}", what=parts[0])
        return tell("to change by hand, {what}; and {more}", what=parts[0], more="; ".join(parts[1:]))

    return said


@dataclass(frozen=True, slots=True)
class _Done:
    """One thing that a remedy was seen to do."""

    remedy: str
    what: str
    where: str
    times: int
    facts: dict[str, Any]


def _done(*records: RunRecord | None) -> list[_Done]:
    """What remedies did in these runs."""
    found = []
    for event in (event for record in records if record is not None for event in record.events):
        if event.kind == ACTED:
            done: Any = event.data.get("done")
            told: Any = event.data.get("facts", [])
            facts = {(what, where): more for what, where, more in told}
            name = str(event.data["remedy"])
            found += [_Done(name, what, where, n, facts.get((what, where), {})) for what, where, n in done]
    return found


def _beside(record: RunRecord, folder: Path, own: str) -> list[str]:
    """Other files in the script's folder that hold lines of its steps, backwards and constructions."""
    streams = dict.fromkeys(where for row in record.steps for where in row.losses)
    places = [*_texts(record.meta.get("steps_at")), *_texts(record.meta.get("made_at")), *streams]
    places += [each.where for each in _done(record)]
    names = dict.fromkeys(place.rpartition(":")[0] for place in places)
    return [name for name in names if name and name != own and (folder / name).is_file()]


def _disturbed(folder: Path, files: Sequence[str]) -> bool:
    """Whether one of the files brings weights or learning rates of its own, which an edit in another one would miss."""
    try:
        texts = [_read(folder / name) for name in files]
    except (NoEdit, OSError, UnicodeDecodeError, SyntaxError):
        return True
    return any(constructions.RESTORED.search(t) or constructions.STEP_SIZE.search(t) or "lr_sched" in t for t in texts)


def _trial(record: RunRecord, names: tuple[str, ...]) -> RunRecord | None:
    """The trial of these remedies, where it has left a record."""
    try:
        return load_run(record.folder / "trials" / "+".join(names))
    except UnreadableRecord:
        return None


def _deeds(done: Sequence[_Done], own: str) -> tuple[acted.Deed, ...] | None:
    """On which lines remedies acted; None where one of them lies in another file."""
    found: list[acted.Deed] = []
    for each in done:
        lines = _lines([each.where], own)
        if not lines and each.remedy in AT_LINES:
            return None
        ways = tuple(_way(way, own) for way in _all_ways(each.facts))
        found += [acted.Deed(each.remedy, each.what, line, ways, each.facts) for line in (lines or (0,))]
    return tuple(dict.fromkeys(found))


def _all_ways(facts: dict[str, Any]) -> list[dict[str, Any] | None]:
    """The expressions that lead to a deed; of a swap, where activations are constructed and functions called."""
    return [*facts.get("ways", ()), *facts.get("made", ()), *(way and way[0] for way in facts.get("functions", ()))]


def _way(noted: dict[str, Any] | None, own: str) -> acted.Way:
    """One expression as the remedy noted it; without its place where it lies in another file."""
    if not noted or not noted["span"] or not _lines([noted["at"]], own):
        return acted.Way(None, None, direct=False)
    return acted.Way(tuple(noted["span"]), noted["place"], direct=noted["direct"])


def _spared(record: RunRecord) -> tuple[str, ...] | None:
    """The last layer, as `agc` takes it from the names, where no usual pattern has it already."""
    names = record.steps[-1].names if record.steps else ()
    if not names or len({row.names for row in record.steps}) > 1 or names[-1].startswith("parameter "):
        return None
    layer = names[-1].rpartition(".")[0]
    pattern = f"{layer}.*" if layer else names[-1]
    usual = [head for head in HEADS if any(fnmatch(name, head) for name in names)]
    return () if any(fnmatch(names[-1], head) for head in usual) else (*usual, pattern)


def _belt(clip: str | None) -> list[Remedy]:
    """The rule that the run was clipped by, as a remedy."""
    rule: Any = from_string(clip or "none")
    if rule is None:
        return []
    if isinstance(rule, Norm):
        return [ClipNorm(rule.max_norm)]
    if isinstance(rule, Value):
        return [ClipValue(rule.limit)]
    raise NoEdit(f"{rule.name} is no call of torch's")


def _script(record: RunRecord) -> Path:
    """The file that ran as `__main__`, from the folder it was started in."""
    name, cwd = str(record.meta.get("script", "")), Path(str(record.meta.get("cwd", ".")))
    path = Path(name)
    if record.meta.get("module"):
        path = Path(*name.split("."))
        if not (cwd / path).is_dir():
            return path.with_suffix(".py")
    return path / "__main__.py" if (cwd / path).is_dir() else path


def _texts(noted: object) -> list[str]:
    return (
        [str(each) for each in noted] if isinstance(noted, list | tuple) else [noted] if isinstance(noted, str) else []
    )


def _lines(places: list[str], own: str) -> tuple[int, ...]:
    """ "train.py:61" -> 61, if all of them lie in the file `own`."""
    found = [place.rpartition(":") for place in places]
    if not all(file == own and line.isdigit() for file, _, line in found):
        return ()
    return tuple(sorted({int(line) for _, _, line in found}))


def _read(script: Path) -> str:
    """The file's text, newlines as they are. Only UTF-8: a diff is text, and it would not fit another encoding."""
    data = script.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    if encoding not in ("utf-8", "utf-8-sig"):
        raise NoEdit(f"it is written in {encoding}")
    return data.decode("utf-8")
