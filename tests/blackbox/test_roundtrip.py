from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradbelt._types import Activation, Event, StepRecord
from gradbelt.blackbox import Writer, load_run

ANY = st.floats(allow_nan=True, allow_infinity=True)
TEXT = st.text(max_size=12)
SINGLE = st.floats(width=32, allow_nan=True)
ACTIVATION = st.builds(
    Activation,
    name=TEXT,
    kind=st.sampled_from(["", "relu", "attention"]),
    **dict.fromkeys(("rms", "peak", "zeros", "dead", "flat", "entropy"), SINGLE),
)
CALLS = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def rows(draw: st.DrawFn, call: int) -> StepRecord:
    names = draw(st.sampled_from([(), ("w",), ("w", "b"), ("b", "w"), tuple(f"p{i}" for i in range(30))]))
    norms = hnp.arrays(
        draw(st.sampled_from([np.float32, np.float64])), len(names), elements=st.floats(width=32, allow_nan=True)
    )
    return StepRecord(
        call=call,
        step=draw(CALLS),
        optimizer=draw(st.integers(-1, 3)),
        time=draw(ANY),
        lr=draw(ANY),
        total=draw(ANY),
        total_after=draw(ANY),
        action=draw(TEXT),
        losses=draw(st.dictionaries(TEXT, ANY, max_size=3)),
        names=names,
        norm=draw(norms),
        weight=draw(st.none() | norms),
        **draw(st.just({}) | st.fixed_dictionaries({"peak": norms, "zeros": norms})),
        bad=draw(st.dictionaries(TEXT, st.sampled_from(["nan", "inf"]), max_size=2)),
        unclipped=draw(st.none() | ANY),
        activations=draw(st.lists(ACTIVATION, max_size=3).map(tuple)),
    )


@st.composite
def runs(draw: st.DrawFn) -> list[StepRecord]:
    return [draw(rows(call)) for call in sorted(draw(st.sets(CALLS, max_size=5)))]


def same(one: object, other: object) -> bool:
    """Equal, where a NaN equals a NaN, and arrays are compared as float32."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.array_equal(one.astype("f4"), other.astype("f4"), equal_nan=True)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, StepRecord | Event | Activation) and isinstance(other, StepRecord | Event | Activation):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__slots__)
    return type(one) is type(other) and one == other


@settings(max_examples=60, deadline=None)
@given(
    steps=runs(),
    events=st.lists(
        st.builds(
            Event,
            call=CALLS,
            step=CALLS,
            kind=TEXT,
            message=TEXT,
            data=st.dictionaries(TEXT, JSON, max_size=2),
        ),
        max_size=3,
    ),
    tail=st.dictionaries(TEXT, ANY, max_size=3),
    meta=st.dictionaries(TEXT, JSON, max_size=3),
)
def test_what_is_written_is_what_is_read(
    steps: list[StepRecord], events: list[Event], tail: dict[str, float], meta: dict[str, object]
) -> None:
    """Any step, event, loss and note comes back as it was, NaN, infinities and "not sampled" included."""
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(folder, meta, warn=pytest.fail)
        for step in steps:
            writer.step(step)
        for event in events:
            writer.event(event)
        writer.tail(tail)
        for close in (lambda: None, writer.close):  # once while the writer is open, once after
            writer.event(Event(call=0, step=0, kind="commit", message=""))
            close()
            run = load_run(folder)
            assert same(run.steps, steps)
            assert same(run.events[: len(events)], events)
            assert same(run.tail, tail)
            assert same({key: run.meta[key] for key in meta}, meta)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_not_sampled_is_not_nan(tmp_path: Path, row, dtype: type) -> None:
    """A step whose weights were not sampled reads back as None; one whose weights are NaN, as NaN."""
    base = row(0)
    names = ("a", "b")
    with_nan = np.array([np.nan, np.inf], dtype)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for call, weight, unclipped in ((0, None, None), (1, with_nan, math.nan)):
        writer.step(
            StepRecord(
                **{name: getattr(base, name) for name in base.__slots__}
                | {"call": call, "names": names, "norm": with_nan, "weight": weight, "unclipped": unclipped}
            )
        )
    writer.close()
    unsampled, sampled = load_run(tmp_path).steps
    assert unsampled.weight is None and unsampled.unclipped is None
    assert sampled.weight is not None and np.array_equal(sampled.weight, with_nan, equal_nan=True)
    assert sampled.unclipped is not None and math.isnan(sampled.unclipped)
    assert not sampled.norm.flags.writeable and sampled.norm.dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_a_norm_too_large_for_the_file_is_inf(tmp_path: Path, row) -> None:
    """A float64 norm past 3.4e38 reads back as inf, and nobody is bothered with a warning."""
    base = row(0)
    huge = np.full(100, 1e300)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    writer.step(StepRecord(**{name: getattr(base, name) for name in base.__slots__} | {"norm": huge}))
    writer.close()
    assert np.isposinf(load_run(tmp_path).steps[0].norm).all()


def test_a_nan_is_null_to_other_tools(tmp_path: Path, row) -> None:
    """Whoever opens the file with plain SQL finds NULL where a loss was NaN, as schema.py says."""
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    writer.tail({"train.py:61": math.nan})
    writer.close()
    with sqlite3.connect(tmp_path / "blackbox.sqlite") as connection:
        assert connection.execute("SELECT value FROM tail").fetchall() == [(None,)]
    connection.close()


def test_a_run_without_a_step_is_a_run(tmp_path: Path) -> None:
    """A script that ended before its first step leaves a readable record."""
    Writer(tmp_path, {"script": "train.py"}, warn=pytest.fail).close()
    run = load_run(tmp_path)
    assert run.steps == () and run.num_steps == 0 and not run.finished
    assert {"script", "schema", "gradbelt", "started"} <= run.meta.keys()


def test_restart_forgets_steps_and_keeps_the_rest(tmp_path: Path, row) -> None:
    """Provisional steps can be taken back; what is written after them counts from zero again."""
    writer = Writer(tmp_path, {"script": "train.py"}, warn=pytest.fail)
    for call in range(5):
        writer.step(row(call))
    writer.event(Event(call=4, step=4, kind="note", message="an optimizer after all"))
    writer.tail({"train.py:61": 1.0})
    writer.restart()
    assert load_run(tmp_path).steps == () and load_run(tmp_path).tail == {}
    writer.step(row(0))
    writer.close()
    run = load_run(tmp_path)
    assert same(run.steps, [run.steps[0]]) and run.steps[0].losses == {"train.py:61": 0.0}
    assert len(run.events) == 1 and run.meta["script"] == "train.py"


def test_the_tail_is_what_came_after_the_last_step(tmp_path: Path, row) -> None:
    """Losses seen between two steps belong to the second; only those after the last are the tail."""
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    writer.tail({"early": 1.0})
    writer.step(row(0))
    writer.close()
    assert load_run(tmp_path).tail == {}


def test_a_call_written_twice_counts_once(tmp_path: Path, row) -> None:
    """The later row of a call replaces the earlier one, losses included."""
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    first = row(0)
    writer.step(StepRecord(**{name: getattr(first, name) for name in first.__slots__} | {"losses": {"old": 2.0}}))
    writer.step(first)
    writer.close()
    assert same(load_run(tmp_path).steps, [first])


def test_notes_and_events_take_anything(tmp_path: Path) -> None:
    """What JSON can't say is kept as text or as plain numbers; it never costs the record."""
    knot: list[object] = []
    knot.append(knot)
    writer = Writer(
        tmp_path, {"argv": ("--lr", np.float32(0.5)), "out": Path("runs"), "pair": {(1, 2): 3}}, warn=pytest.fail
    )
    writer.event(Event(call=0, step=0, kind="error", message="can't open \udcff.bin", data={"knot": knot}))
    writer.note(shape=np.arange(3))
    writer.close()
    run = load_run(tmp_path)
    assert run.meta["argv"] == ["--lr", 0.5] and run.meta["out"] == "runs" and run.meta["shape"] == [0, 1, 2]
    assert run.meta["pair"] == "{(1, 2): 3}"
    assert run.events[0].message == "can't open \\udcff.bin"


def test_a_record_can_be_written_and_read_without_a_framework() -> None:
    """Importing the black box imports no torch."""
    check = "import sys, gradbelt.blackbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0
