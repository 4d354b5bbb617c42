"""What every detector promises, whoever wrote it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradbelt._types import (
    SYMPTOMS,
    Course,
    History,
    Keep,
    Level,
    Measurement,
    RunRecord,
    Skip,
    StepRecord,
)
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.judge import judge, replay
from gradbelt.belt.record import record
from gradbelt.blackbox import Writer, load_run
from gradbelt.report.sentences import follows
from gradbelt.report.words import figure
from gradbelt.symptoms import DETECTORS, HINDSIGHTS
from gradbelt.symptoms.rows import recorded


def step(i, loss, norm, weight):
    bad = {} if math.isfinite(norm) else {"w": "nan" if math.isnan(norm) else "inf"}
    return Measurement(
        call=i, step=i, optimizer=0, names=("w",), norm=np.array([norm]), total=norm, lr=0.1, bad=bad,
        losses={"train.py:1": loss}, weight=np.array([weight]), peak=np.array([norm]),
        zeros=np.array([float(norm == 0)]),
    )  # fmt: skip


def measured(example):
    """The steps of an example, which is written in numbers or in rows."""
    return [row.measurement() if isinstance(row, StepRecord) else step(i, *row) for i, row in enumerate(example)]


def verdicts(example, detectors=DETECTORS, *, skip=lambda seen: False):
    """The verdict of every step of an example; refused steps are not learnt from."""
    return verdicts_of(measured(example), detectors, skip=skip)


def verdicts_of(steps, detectors, *, skip=lambda seen: False):
    history, course, all_of_them = History(), Course(), []
    for seen in steps:
        course = advance(course, seen)
        all_of_them.append(judge(derive(seen, history, course), history, detectors))
        history = learn(history, seen, Skip("test") if skip(seen) else Keep(), seen.total)
    return all_of_them


def check_detector(detector):
    for example in detector.CALM:
        assert not any(verdicts(example, [detector])), "speaks on what it calls calm"
    for example in detector.SICK:
        found = [finding for verdict in verdicts(example, [detector]) for finding in verdict]
        assert found, "is silent on what it calls sick"
        for finding in found:
            assert finding.kind in detector.kinds
            assert str(finding.step) in finding.message


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_silent_on_its_calm_and_heard_on_its_sick(detector):
    check_detector(detector)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_one_detectors_calm_is_no_alarm_to_any_other(detector):
    for example in detector.CALM:
        alarms = [f for verdict in verdicts(example) for f in verdict if f.level is Level.ALARM]
        assert not alarms


def record_of(rows):
    return RunRecord(folder=Path(), meta={}, steps=tuple(rows))


@pytest.mark.parametrize("hindsight", HINDSIGHTS, ids=lambda h: type(h).__name__)
def test_a_hindsight_is_silent_over_its_calm_and_heard_over_its_sick(hindsight):
    assert hindsight.CALM
    assert hindsight.SICK
    for rows in hindsight.CALM:
        assert hindsight.look_back(record_of(rows)) is None, "speaks on what it calls calm"
    for rows in hindsight.SICK:
        finding = hindsight.look_back(record_of(rows))
        assert finding is not None, "is silent on what it calls sick"
        assert finding.kind in hindsight.kinds
        assert str(finding.step) in finding.message


@pytest.mark.parametrize("each", [*DETECTORS, *HINDSIGHTS], ids=lambda each: type(each).__name__)
def test_each_says_where_it_comes_from_and_when_it_is_wrong(each):
    doc = type(each).__doc__
    assert "Source" in doc
    assert "False alarms:" in doc


def test_only_stalled_makes_a_run_exploded_in_hindsight():
    for hindsight in HINDSIGHTS:
        loud = {hindsight.look_back(record_of(rows)).level is Level.ALARM for rows in hindsight.SICK}
        assert loud == {hindsight.kinds == ("stalled",)}


@pytest.mark.parametrize("hindsight", HINDSIGHTS, ids=lambda h: type(h).__name__)
def test_a_hindsight_over_a_short_record_is_silent(hindsight):
    """A run of no step, or of a few, proves nothing."""
    for rows in hindsight.SICK:
        assert all(hindsight.look_back(record_of(rows[:count])) is None for count in (0, 1, 2, 10))


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_the_black_box_finds_again_what_a_detector_found(detector, tmp_path):
    """Written down and read back, every example of a sick run gives the same findings, word for word."""
    for i, example in enumerate(detector.SICK):
        steps = measured(example)
        writer = Writer(tmp_path / str(i), {}, warn=print)
        for seen in steps:
            writer.step(record(seen, seen, Keep(), time=0.0))
        writer.close()
        again = [verdict for _, verdict, _ in replay(load_run(tmp_path / str(i)), [detector])]
        assert repr(again) == repr(verdicts_of(steps, [detector]))


@pytest.mark.parametrize("hindsight", HINDSIGHTS, ids=lambda h: type(h).__name__)
def test_the_black_box_finds_again_what_a_hindsight_found(hindsight, tmp_path):
    for i, rows in enumerate(hindsight.SICK):
        writer = Writer(tmp_path / str(i), {}, warn=print)
        for row in rows:
            writer.step(row)
        writer.close()
        assert repr(hindsight.look_back(load_run(tmp_path / str(i)))) == repr(hindsight.look_back(record_of(rows)))


def test_a_detector_that_never_speaks_is_rejected():
    @dataclass(frozen=True)
    class Silent:
        kinds: tuple[str, ...] = ("nan_loss",)
        CALM = ()
        SICK = ([(math.nan, 1.0, 1.0)],)

        def look(self, signals, history):
            return None

    with pytest.raises(AssertionError, match="silent"):
        check_detector(Silent())


def test_every_kind_is_one_of_the_fixed_names():
    kinds = [kind for detector in (*DETECTORS, *HINDSIGHTS) for kind in detector.kinds]
    assert set(kinds) <= set(SYMPTOMS)


norms = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=80)
layers = st.lists(st.tuples(*[st.floats(0.5, 2.0)] * 3), min_size=70, max_size=90)


@settings(max_examples=40, deadline=None)
@given(layers, st.data())
def test_a_refused_step_leaves_no_trace_in_what_is_said_of_layers(values, data):
    """Also of one parameter among several, also where it jumps after the step that was refused."""
    loud = data.draw(st.integers(60, len(values) - 1))
    values = [(a, b * (1e4 if i == loud else 1.0), 1e4 * c) for i, (a, b, c) in enumerate(values)]
    clean = [recorded(i, 1.0, *norms) for i, norms in enumerate(values)]
    at = data.draw(st.integers(0, len(values)))
    bad = data.draw(st.sampled_from([math.nan, math.inf]))
    dirty = [*clean[:at], recorded(at, 1.0, 1.0, bad, 1.0), *clean[at:]]
    with_it = verdicts(dirty, skip=lambda seen: not seen.finite)
    said = [[(f.kind, f.where, f.value) for f in verdict] for i, verdict in enumerate(with_it) if i != at]
    assert said == [[(f.kind, f.where, f.value) for f in verdict] for verdict in verdicts(clean)]
    assert said[loud] == [("grad_explosion", "layers.1.weight", pytest.approx(values[loud][1]))]


@settings(max_examples=60, deadline=None)
@given(norms, st.data())
def test_a_refused_step_leaves_no_trace_in_later_gradient_verdicts(values, data):
    """For any norms, and a nan or inf put in anywhere: what is said of the other steps is the same as without it."""
    gradient_detectors = [d for d in DETECTORS if "grad" in d.kinds[0]]
    clean = [(1.0, value, 1.0) for value in values]
    at = data.draw(st.integers(0, len(values)))
    broken = (1.0, data.draw(st.sampled_from([math.nan, math.inf])), 1.0)
    dirty = [*clean[:at], broken, *clean[at:]]
    with_it = verdicts(dirty, gradient_detectors, skip=lambda seen: not seen.finite)
    without = verdicts(clean, gradient_detectors)
    said = [[(f.kind, f.value) for f in verdict] for i, verdict in enumerate(with_it) if i != at]
    assert said == [[(f.kind, f.value) for f in verdict] for verdict in without]
    assert with_it[at]


def test_learning_starts_over_when_the_level_has_moved():
    """After a bounded number of refusals in a row the belt takes the new level for the normal one."""
    history = History()
    for i in range(40):
        history = learn(history, step(i, 1.0, 1.0, 1.0), Keep(), 1.0)
    for i in range(40, 100):
        history = learn(history, step(i, 1.0, 50.0, 1.0), Skip("spike"), 0.0)
        if not history.levels:
            break
    assert history == History(steps=history.steps)  # the clock goes on


@pytest.mark.parametrize("each", [*DETECTORS, *HINDSIGHTS], ids=lambda each: type(each).__name__)
def test_a_reader_is_told_the_limit_and_what_comes_of_it(each):
    """Beside the step, the place and the number that its sentence names; in their own language."""
    for example in each.SICK:
        looks = verdicts(example, [each]) if each in DETECTORS else [[each.look_back(record_of(example))]]
        for finding in (finding for look in looks for finding in look):
            english, japanese = (follows(finding, lang) for lang in ("en", "ja"))
            assert english and japanese and english != japanese
            if finding.limit is not None and math.isfinite(finding.limit):
                assert figure(finding.limit) in english and figure(finding.limit) in japanese
