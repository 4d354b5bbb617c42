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
from pathlib import Path
from typing import Any

import libcst as cst

from gradbelt._types import RunRecord
from gradbelt.blackbox import load_run
from gradbelt.clip import Norm, Value, from_string
from gradbelt.errors import UnreadableRecord
from gradbelt.remedies import Remedy, parse
from gradbelt.remedies.clip_norm import ClipNorm
from gradbelt.remedies.clip_value import ClipValue
from gradbelt.remedies.edits import acted, layers
from gradbelt.remedies.edits import made as constructions
from gradbelt.remedies.edits import steps as updates
from gradbelt.remedies.edits.source import NoEdit, Source
from gradbelt.remedies.edits.weave import Weave, difference
from gradbelt.supervise.deeds import ACTED

BOM = "\ufeff"
AT_STEP = ("clip_norm", "clip_value", "skip_step", "zero_nan", "zero_grad", "warmup")
AT_LINES = ("eps_in_op", "mask_fix", "loss_reduction")
INITS = ("he_init", "xavier_init", "orthogonal_init")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Lines of the script's own file, as a run was seen to pass them. Of each kind all lines or none: half an edit is
    a wrong one."""

    steps: tuple[int, ...] = ()  # optimizer.step(); none in a loop that has no optimizer
    backwards: tuple[int, ...] = ()  # loss.backward()
    made: tuple[int, ...] = ()  # optimizers that stepped were constructed here
    deeds: tuple[acted.Deed, ...] | None = None  # of remedies that act on lines; None: not all in this file

    @classmethod
    def of(cls, record: RunRecord) -> Sites:
        """What the black box noted. Without the steps there are no backwards either, or it would look like a loop
        without optimizer."""
        own = _script(record).name
        meta = record.meta
        stepped = _texts(meta.get("steps_at"))
        streams = dict.fromkeys(where for row in record.steps for where in row.losses)
        steps, made = _lines(stepped, own), _lines(_texts(meta.get("made_at")), own)
        hidden = (stepped and not steps) or (not stepped and any(row.optimizer >= 0 for row in record.steps))
        return cls(steps=steps, backwards=() if hidden else _lines(list(streams), own), made=made)


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
    if any(remedy.name in AT_STEP for remedy in remedies):
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
        case "zero_nan":
            for use in found:
                updates.zero_nan(source, weave, use)
        case "zero_grad":
            updates.zero_grad(source, weave, found, sites.backwards)
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
        case "eps_in_op" | "mask_fix" | "loss_reduction":
            deeds = [deed for deed in sites.deeds or () if deed.remedy == name]
            if not deeds:
                raise NoEdit(f"it can't be seen where {name} acted")
            if name == "eps_in_op":
                acted.eps_in_op(source, weave, deeds, value)
            else:
                (acted.mask_fix if name == "mask_fix" else acted.loss_reduction)(source, weave, deeds)
        case "precision":
            updates.half_off(source, weave)
        case "gated_rnn":
            layers.gated_rnn(source, weave)
        case "norm_layer":
            layers.norm_layer(source, weave)
        case _ if name in INITS:
            constructions.initialise(source, weave, made, name)
        case _:
            raise NoEdit(f"{name} stands for no edit of a few lines")


def patches(record: RunRecord, *, clip: str | None = None) -> Callable[[tuple[str, ...]], str | None]:
    """For `prescribe`: remedies by name -> the diff of the recorded script, what it ran under already included."""
    script, sites = _script(record), Sites.of(record)
    cwd = Path(str(record.meta.get("cwd", ".")))
    relative = os.path.relpath(cwd / script, cwd)
    shown = Path(relative).as_posix() if not relative.startswith("..") else script.name

    def diff(names: tuple[str, ...]) -> str | None:
        texts = [*_texts(record.meta.get("remedies")), *names]
        try:
            remedies = [*_belt(clip), *(remedy for text in texts for remedy in parse(text))]
        except NoEdit:
            return None
        seen = replace(sites, deeds=_deeds([record, _trial(record, names)], script.name))
        return patch(cwd / script, remedies, seen, shown_as=shown)

    return diff


def _trial(record: RunRecord, names: tuple[str, ...]) -> RunRecord | None:
    """The trial of these remedies, where it has left a record."""
    try:
        return load_run(record.folder / "trials" / "+".join(names))
    except UnreadableRecord:
        return None


def _deeds(records: Sequence[RunRecord | None], own: str) -> tuple[acted.Deed, ...] | None:
    """On which lines remedies acted; None where one of them lies in another file."""
    found = []
    for event in (event for record in records if record is not None for event in record.events):
        if event.kind != ACTED:
            continue
        done: Any = event.data.get("done")
        for what, where, _ in done:
            lines = _lines([where], own)
            if not lines and event.data["remedy"] in AT_LINES:
                return None
            found += [acted.Deed(str(event.data["remedy"]), what, line) for line in lines]
    return tuple(dict.fromkeys(found))


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
