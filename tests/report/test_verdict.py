"""verdict.json: what programs may rely on."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from gradbelt._told import Told, say, tell
from gradbelt._types import ClipAdvice, Element, Finding, Level, Origin, Outcome, Prescription, Story, Suspicion
from gradbelt.errors import UnreadableRecord
from gradbelt.report import read_verdict, write_verdict
from gradbelt.testing import make_story

EXAMPLE = """
{"schema": 1, "gradbelt": "0.1.0", "script": "train.py", "argv": [], "exploded": true,
 "steps": 250, "first_warning_step": 9, "first_bad_step": 14,
 "symptoms": [{"kind": "nan_loss", "step": 14, "where": "train.py:61", "message": "m"}],
 "origin": {"pass": "forward", "op": "log", "module": "decoder.out", "file": "train.py", "line": 42, "message": "m"},
 "causes": [{"cause": "learning_rate", "confidence": 0.81, "evidence": ["e"], "against": ["a"]}],
 "trials": [{"remedy": "clip_norm=1.0", "outcome": "learning", "steps": 250, "loss": 1.9, "metric": null,
             "seconds": 4.1}],
 "prescriptions": [{"rank": 1, "remedies": ["lower_lr=0.1"], "verified": true, "why": "w", "patch": "--- a/train.py"}],
 "clip": {"needed": true, "threshold": 1.0, "clip_rate": 0.04, "why": "w"},
 "reproduced": true, "seconds": {"watch": 5.1, "examine": 6.0, "trials": 31.0}}
"""

STORY = Story(
    version="0.1.0", script="train.py", argv=(), exploded=True, steps=250, first_warning_step=9, first_bad_step=14,
    symptoms=(Finding(kind="nan_loss", step=14, level=Level.ALARM, where="train.py:61", message="m"),),
    origin=Origin(stage="forward", op="log", module="decoder.out", file="train.py", line=42, message="m",
                  element=Element(tensor="input", shape=(8, 4), row=5, column=2, value=1e8, index=69)),
    causes=(Suspicion(cause="learning_rate", confidence=0.81, evidence=("e",), against=("a",)),),
    trials=(Outcome(remedy="clip_norm=1.0", outcome="learning", steps=250, loss=1.9, metric=None, seconds=4.1),),
    prescriptions=(
        Prescription(rank=1, remedies=("lower_lr=0.1",), verified=True, why="w", patch="--- a/train.py"),
    ),
    clip=ClipAdvice(needed=True, threshold=1.0, clip_rate=0.04, why="w"),
    reproduced=True, seconds={"watch": 5.1, "examine": 6.0, "trials": 31.0},
)  # fmt: skip

EXTRA = {
    "": {"told", "exit_code", "buckle", "fix", "failed_after_s"},
    "clip": {"droppable", "fit", "looser", "notes"},
    "prescriptions": {"by_hand", "proven_after_s", "seeds"},
    "origin": {"tensor", "about", "element"},
    "symptoms": {"level", "value", "limit", "shape", "parts", "follows"},
    "trials": {"again", "clip_rate", "curve", "ended_at", "idle", "masks", "norms", "note"},
}


def same(written: object, example: object, where: str) -> None:
    """`written` holds what the example holds, and beside it only the extra keys named above."""
    if isinstance(example, dict):
        assert isinstance(written, dict)
        assert set(written) - set(example) == EXTRA.get(where, set())
        assert list(written)[: len(example)] == list(example)
        for key, value in example.items():
            same(written[key], value, key)
    elif isinstance(example, list):
        assert isinstance(written, list)
        assert len(written) == len(example)
        for one, other in zip(written, example, strict=True):
            same(one, other, where)
    else:
        assert written == example
        assert type(written) is type(example)


def test_the_schema_is_the_one_that_is_documented() -> None:
    same(json.loads(write_verdict(STORY)), json.loads(EXAMPLE), "")


@pytest.mark.parametrize("kind", ["explodes", "healthy", "all_nan", "empty", "one_step"])
def test_what_is_written_is_read_back_and_written_the_same(kind: str, tmp_path) -> None:
    story = make_story(kind)
    text = write_verdict(story)
    (tmp_path / "verdict.json").write_text(text, encoding="utf-8")
    again = read_verdict(tmp_path)
    assert write_verdict(again) == text
    for item in dataclasses.fields(story):
        if item.name not in ("symptoms", "trials"):  # these hold a nan, which comes back as None
            assert getattr(again, item.name) == getattr(story, item.name), item.name


def test_a_story_of_finite_numbers_is_read_back_as_it_was(tmp_path) -> None:
    (tmp_path / "verdict.json").write_text(write_verdict(STORY), encoding="utf-8")
    assert read_verdict(tmp_path) == STORY


def test_no_bare_nan_ever_stands_in_the_file() -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    wild = Outcome(
        remedy="x", outcome="nonfinite", steps=1, loss=math.inf, metric=math.nan, seconds=math.nan,
        curve=((0, math.nan), (1, -math.inf)), note=tell("{x:.3g}", x=math.nan),
    )  # fmt: skip
    story = dataclasses.replace(
        STORY, trials=(wild,), causes=(Suspicion(cause="c", confidence=math.nan),), seconds={"watch": math.inf},
        clip=ClipAdvice(needed=False, threshold=math.nan, clip_rate=float("nan"), why=""),
    )  # fmt: skip
    document = json.loads(write_verdict(story), parse_constant=refuse)
    assert document["trials"][0]["loss"] is None
    assert document["trials"][0]["curve"] == [[0, None], [1, None]]


def test_numpy_numbers_are_written_as_numbers() -> None:
    story = dataclasses.replace(STORY, steps=np.int64(3), seconds={"watch": np.float32(0.5)})
    document = json.loads(write_verdict(story))
    assert document["steps"] == 3
    assert document["seconds"] == {"watch": 0.5}


def test_a_sentence_can_be_said_in_another_language_after_reading(tmp_path) -> None:
    inner = tell("learning rate too high")
    outer = tell("{op} in the {stage}", op=inner, stage=tell("forward pass"))
    number = Told("loss {loss:.3g}", {"loss": math.nan})
    story = dataclasses.replace(
        STORY, causes=(Suspicion(cause="c", confidence=0.5, evidence=(outer, number, "plain")),)
    )
    (tmp_path / "verdict.json").write_text(write_verdict(story), encoding="utf-8")
    evidence = read_verdict(tmp_path).causes[0].evidence
    assert evidence == (outer, number, "plain")
    assert [say(sentence, "ja") for sentence in evidence] == [say(outer, "ja"), "loss nan", "plain"]
    assert say(outer, "ja") != outer
    assert not isinstance(evidence[2], Told)


def test_a_sentence_that_is_its_own_parameter_is_read_back(tmp_path) -> None:
    story = dataclasses.replace(STORY, clip=dataclasses.replace(STORY.clip, why=tell("{x}", x=tell("{x}", x="again"))))
    (tmp_path / "verdict.json").write_text(write_verdict(story), encoding="utf-8")
    assert read_verdict(tmp_path).clip.why == "again"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "schema"),
        ("{}", "schema"),
        ('{"schema": true}', "schema"),
        ('{"schema": 1}', "missing"),
        ('{"schema": 2}', "newer"),
        (write_verdict(STORY).replace('"steps": 250', '"steps": "many"'), "damaged"),
        (write_verdict(STORY).replace('"level": "alarm"', '"level": "odd"'), "ODD"),
        (write_verdict(STORY).replace('"symptoms": [', '"symptoms": [3, '), "damaged"),
        (write_verdict(STORY)[:-40], "not JSON"),
    ],
)
def test_damage_is_told_in_one_plain_line(text: str, says: str, tmp_path) -> None:
    path = tmp_path / "verdict.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnreadableRecord) as caught:
        read_verdict(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


def test_a_missing_file_and_binary_junk_are_unreadable_too(tmp_path) -> None:
    with pytest.raises(UnreadableRecord):
        read_verdict(tmp_path)
    (tmp_path / "verdict.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnreadableRecord):
        read_verdict(tmp_path)
