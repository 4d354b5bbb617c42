"""verdict.json, schema 1: the story for programs, written and read back.

A number that is not finite is written as null, so any JSON reader can read the file. Sentences are English; the key
`told` keeps how those that translate were put together, `{sentence: [template, params]}`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradbelt._told import Told
from gradbelt._types import (
    SCHEMA,
    ClipAdvice,
    Element,
    Finding,
    Fix,
    Level,
    Misfit,
    Origin,
    Outcome,
    Parts,
    Prescription,
    Seeds,
    Story,
    Suspicion,
)
from gradbelt.errors import UnreadableRecord
from gradbelt.report.sentences import follows

_POINT = re.compile(r"\[\n\s+([^\s\[\]{}\"]+),\n\s+([^\s\[\]{}\"]+)\n\s+\]")


def write_verdict(story: Story) -> str:
    """The text of verdict.json: strict JSON, keys in the order of the schema, one point of a curve a line."""
    text = json.dumps(_plain(_document(story)), indent=2, ensure_ascii=False, allow_nan=False)
    # a raw newline never stands inside a JSON string, so this touches no sentence
    return _POINT.sub(r"[\1, \2]", text) + "\n"


def read_verdict(path: Path | str) -> Story:
    """The story that `path` (verdict.json, or a run folder that holds one) was written from.

    Non-finite numbers come back as None where the field may be None, else as nan. Raises UnreadableRecord.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "verdict.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableRecord(f"{path}: can't be opened ({error.strerror}); give a run folder") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"{path}: not JSON ({error}); write it again with `gradbelt report`") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise UnreadableRecord(f'{path}: no verdict of gradbelt (its "schema" is missing); give a run\'s verdict.json')
    if schema > SCHEMA:
        raise UnreadableRecord(f"{path}: schema {schema} is newer than this gradbelt reads ({SCHEMA}); update gradbelt")
    try:
        return _story(document)
    except KeyError as error:
        raise UnreadableRecord(f"{path}: damaged, {error} is missing; write it again with `gradbelt report`") from error
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UnreadableRecord(f"{path}: damaged ({error}); write it again with `gradbelt report`") from error


# ------------------------------------------------------------------------------------------------------------- write


def _document(story: Story) -> dict[str, Any]:
    origin = story.origin
    return {
        "schema": SCHEMA,
        "gradbelt": story.version,
        "script": story.script,
        "argv": story.argv,
        "exploded": story.exploded,
        "steps": story.steps,
        "first_warning_step": story.first_warning_step,
        "first_bad_step": story.first_bad_step,
        "symptoms": [
            {
                "kind": finding.kind, "step": finding.step, "where": finding.where, "message": finding.message,
                "level": finding.level.name.lower(), "value": finding.value, "limit": finding.limit,
                "shape": finding.shape, "parts": _parts(finding.parts), "follows": follows(finding, "en"),
            }
            for finding in story.symptoms
        ],
        "origin": None
        if origin is None
        else {
            "pass": origin.stage, "op": origin.op, "module": origin.module, "file": origin.file, "line": origin.line,
            "message": origin.message, "tensor": origin.tensor, "about": origin.about,
            "element": None
            if origin.element is None
            else {**asdict(origin.element), "value": f"{origin.element.value:.9g}"},
        },
        "causes": [
            {"cause": cause.cause, "confidence": cause.confidence, "evidence": cause.evidence, "against": cause.against}
            for cause in story.causes
        ],
        "trials": [_trial(trial) for trial in story.trials],
        "prescriptions": [
            {
                "rank": item.rank, "remedies": item.remedies, "verified": item.verified, "why": item.why,
                "patch": item.patch, "by_hand": item.by_hand, "proven_after_s": item.proven_after,
                "seeds": None if item.seeds is None else asdict(item.seeds),
            }
            for item in story.prescriptions
        ],
        "clip": {
            "needed": story.clip.needed, "threshold": story.clip.threshold, "clip_rate": story.clip.clip_rate,
            "why": story.clip.why, "fit": story.clip.fit, "notes": story.clip.notes,
            "looser": story.clip.looser, "droppable": story.clip.droppable,
        },
        "reproduced": story.reproduced,
        "seconds": story.seconds,
        "failed_after_s": story.failed_after,
        "exit_code": story.exit_code,
        "buckle": [{"kind": each.kind, "step": each.step, "message": each.message} for each in story.buckle],
        "fix": None
        if story.fix is None
        else {
            "remedies": story.fix.remedies, "file": story.fix.file, "note": story.fix.note,
            "trial": None if story.fix.outcome is None else _trial(story.fix.outcome),
        },
        "told": {sentence: [sentence.template, _params(sentence)] for sentence in _sentences(story)},
    }  # fmt: skip


def _trial(trial: Outcome) -> dict[str, Any]:
    return {
        "remedy": trial.remedy, "outcome": trial.outcome, "steps": trial.steps, "loss": trial.loss,
        "metric": trial.metric, "seconds": trial.seconds, "clip_rate": trial.clip_rate, "note": trial.note,
        "idle": trial.idle, "ended_at": trial.ended, "again": trial.again, "masks": trial.masks,
        "curve": trial.curve, "norms": trial.norms,
    }  # fmt: skip


def _parts(parts: Parts | None) -> dict[str, Any] | None:
    if parts is None:
        return None
    return {
        "parameters": dict(parts.parameters), "modules": dict(parts.modules), "first": parts.first, "since": parts.since
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """`value` in what JSON knows; a number that is not finite becomes None."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bool() | int() | None:
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case np.generic():
            return _plain(value.item())
        case _:
            return str(value)


def _sentences(value: Any) -> Iterator[Told]:
    """Every sentence that translates in `value`, those inside other sentences included."""
    if isinstance(value, Told):
        yield value
        yield from _sentences(value.params)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _sentences(getattr(value, item.name))
    elif isinstance(value, Mapping):
        yield from (sentence for item in value.values() for sentence in _sentences(item))
    elif isinstance(value, (list, tuple)):
        yield from (sentence for item in value for sentence in _sentences(item))


def _params(sentence: Told) -> dict[str, Any]:
    def keep(value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        # null would not survive "{loss:.3g}", so a number that is not finite keeps its name
        return {"float": repr(float(value))} if isinstance(value, float) and not math.isfinite(value) else value

    return {name: keep(value) for name, value in sentence.params.items()}


# -------------------------------------------------------------------------------------------------------------- read


def _story(document: Mapping[str, Any]) -> Story:
    told = document.get("told", {})

    def text(sentence: str) -> str:
        return _retell(_is(sentence, str), told)

    def texts(sentences: list[str]) -> tuple[str, ...]:
        return tuple(text(sentence) for sentence in sentences)

    def outcome(item: Mapping[str, Any]) -> Outcome:
        return Outcome(
            remedy=_is(item["remedy"], str), outcome=_is(item["outcome"], str), steps=_is(item["steps"], int),
            loss=_real(item["loss"]), metric=_real(item["metric"]), seconds=_number(item["seconds"]),
            clip_rate=_real(item.get("clip_rate")), curve=_points(item.get("curve", [])),
            norms=_points(item.get("norms", [])), note=text(item.get("note", "")),
            idle=_is(item.get("idle", False), bool), ended=_real(item.get("ended_at")),
            again=tuple(_is(each, str) for each in item.get("again", [])),
        )  # fmt: skip

    origin, clip, fix = document["origin"], document["clip"], document.get("fix")
    return Story(
        version=_is(document["gradbelt"], str),
        script=_is(document["script"], str),
        argv=tuple(_is(word, str) for word in document["argv"]),
        exploded=_is(document["exploded"], bool),
        steps=_is(document["steps"], int),
        first_warning_step=_maybe(document["first_warning_step"], int),
        first_bad_step=_maybe(document["first_bad_step"], int),
        symptoms=tuple(
            Finding(
                kind=_is(item["kind"], str), step=_is(item["step"], int), where=_maybe(item["where"], str),
                message=text(item["message"]), level=Level[item.get("level", "alarm").upper()],
                value=_real(item.get("value")), limit=_real(item.get("limit")),
                shape=_maybe(item.get("shape"), str), parts=_as_parts(item.get("parts")),
            )
            for item in document["symptoms"]
        ),
        origin=None
        if origin is None
        else Origin(
            stage=_is(origin["pass"], str), op=_is(origin["op"], str), module=_maybe(origin["module"], str),
            file=_maybe(origin["file"], str), line=_maybe(origin["line"], int), message=text(origin["message"]),
            tensor=_maybe(origin.get("tensor"), str), about=origin.get("about") is True,
            element=_element(origin.get("element")),
        ),
        causes=tuple(
            Suspicion(
                cause=_is(item["cause"], str), confidence=_number(item["confidence"]),
                evidence=texts(item["evidence"]), against=texts(item["against"]),
            )
            for item in document["causes"]
        ),
        trials=tuple(outcome(item) for item in document["trials"]),
        prescriptions=tuple(
            Prescription(
                rank=_is(item["rank"], int), remedies=tuple(_is(name, str) for name in item["remedies"]),
                verified=_is(item["verified"], bool), why=text(item["why"]), patch=_maybe(item["patch"], str),
                by_hand=text(item.get("by_hand", "")), proven_after=_real(item.get("proven_after_s")),
                seeds=None if item.get("seeds") is None else Seeds(**item["seeds"]),
            )
            for item in document["prescriptions"]
        ),
        clip=ClipAdvice(
            needed=_is(clip["needed"], bool), threshold=_real(clip["threshold"]), clip_rate=_real(clip["clip_rate"]),
            why=text(clip["why"]), fit=_maybe(clip.get("fit"), str), notes=texts(clip.get("notes", [])),
            looser=_maybe(clip.get("looser"), str), droppable=_maybe(clip.get("droppable"), bool),
        ),
        reproduced=_maybe(document["reproduced"], bool),
        seconds={name: _number(value) for name, value in document["seconds"].items()},
        exit_code=_maybe(document.get("exit_code"), int),
        failed_after=_real(document.get("failed_after_s")),
        buckle=tuple(
            Misfit(kind=_is(item["kind"], str), step=_is(item["step"], int), message=text(item["message"]))
            for item in document.get("buckle", [])
        ),
        fix=None
        if fix is None
        else Fix(
            remedies=texts(fix["remedies"]), file=_maybe(fix["file"], str), note=text(fix["note"]),
            outcome=None if fix["trial"] is None else outcome(fix["trial"]),
        ),
    )  # fmt: skip


def _as_parts(item: Mapping[str, Any] | None) -> Parts | None:
    if item is None:
        return None
    parameters, modules = (
        tuple((name, float(share)) for name, share in item[key].items()) for key in ("parameters", "modules")
    )
    first = tuple(_is(name, str) for name in item["first"])
    return Parts(parameters=parameters, modules=modules, first=first, since=_maybe(item["since"], int))


def _retell(sentence: str, told: Mapping[str, Any]) -> str:
    """`sentence` as the `Told` it was, where `told` says how; as it stands where what is kept doesn't fit."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return float(value["float"])
        # only into shorter ones: a sentence that contains itself would go on for ever
        return _retell(value, told) if isinstance(value, str) and len(value) < len(sentence) else value

    if sentence not in told:
        return sentence
    try:
        template, params = told[sentence]
        again = Told(template, {name: restore(value) for name, value in params.items()})
    except (TypeError, ValueError, LookupError, AttributeError):
        return sentence
    return again if again == sentence else sentence


def _element(found: dict[str, Any] | None) -> Element | None:
    """Its value is written as text: JSON has no nan."""
    if found is None:
        return None
    known = {field.name: found[field.name] for field in fields(Element)}
    return Element(**{**known, "shape": tuple(found["shape"]), "value": float(found["value"])})


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} where {kind.__name__} is due")
    return value


def _maybe(value: Any, kind: type) -> Any:
    return None if value is None else _is(value, kind)


def _real(value: Any) -> float | None:
    return None if value is None else float(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _points(pairs: list[list[Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(step), _number(value)) for step, value in pairs)
