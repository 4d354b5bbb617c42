"""Laws over every detector and hindsight found, on runs that nobody wrote down: a run has no unit, a number that broke
leaves no trace, and a black box says again what was said live."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from tests.contract.test_detectors import measured

from gradbelt._types import RECENT, Activation, Course, History, Keep, RunRecord, Skip
from gradbelt.belt.derive import advance, derive, learn
from gradbelt.belt.judge import judge, onset, replay
from gradbelt.belt.record import record
from gradbelt.blackbox import Writer, load_run
from gradbelt.symptoms import DETECTORS, HINDSIGHTS
from gradbelt.symptoms.rows import recorded

EVERYONE = (*DETECTORS, *HINDSIGHTS)
LONGEST = 150  # steps taken of an example: some have more than a thousand


def rows_of(example):
    return [record(seen, seen, Keep(), time=0.0) for seen in measured(example)]


EXAMPLES = [rows_of(example)[-LONGEST:] for each in EVERYONE for example in (*each.SICK, *each.CALM)]


def many(examples):
    """So many runs; none is made smaller where it fails, for a seed does not grow simpler with its size."""
    return settings(max_examples=examples, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


few_or_many = pytest.mark.parametrize("examples", [6, pytest.param(100, marks=pytest.mark.slow)])


# ------------------------------------------------------------------------------------------------ runs, made by chance


class Run(list):
    """Rows; a law that fails shows the numbers they were drawn from, not the rows."""

    def __repr__(self):
        return f"<{len(self)} rows>"


@st.composite
def runs(draw, below_zero=False):
    """Rows of a run: an example of some detector, shaken, or one of phases that rise and fall by rates of their own."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    if draw(st.booleans(), label="from an example"):
        rows = draw(st.sampled_from(EXAMPLES))
        rows = shaken(rows, chance, draw(st.sampled_from([1e-5, 0.03, 0.3]), label="much"))
    else:
        rows = list(phases(chance, draw(st.integers(1, 4), label="phases")))
    lowered = draw(st.floats(0.5, 9.0), label="lowered") if below_zero else 0.0
    return Run(replace(row, losses={where: loss - lowered for where, loss in row.losses.items()}) for row in rows)


def shaken(rows, chance, much):
    """Each number of each row times a lognormal one, so that none lies on a limit but by chance."""
    return [
        scaled(row, **dict(zip(("gradients", "losses", "weights", "activations"), factors, strict=True)))
        for row, factors in zip(rows, chance.lognormal(0.0, much, (len(rows), 4)).tolist(), strict=True)
    ]


def phases(chance, count):
    """Steps of three parameters; in each phase everything has a rate and a noise of its own, and one step jumps."""
    sizes, step = np.zeros(5), 0  # logarithms: loss, gradient, weights, activations, loss scale
    for _ in range(count):
        length, noise = int(chance.integers(10, 50)), chance.choice([0.0, 0.05, 0.4])
        rates = chance.choice([0.0, 0.0, 0.02, 0.1, 0.5], 5) * chance.choice([-1, 1, 1], 5)
        jump, moved, restless = int(chance.integers(length)), chance.choice([1e-3, 0.5]), chance.random() < 0.25
        for i in range(length):
            sizes = np.clip(sizes + rates, -25.0, 25.0)
            loss, norm, weight, shown, scale = np.exp(
                sizes + noise * chance.standard_normal(5) + (3.0 * (i == jump and chance.random() < 0.5))
            ).tolist()
            look = {
                "weight": np.array([weight, 2.0 * weight, 5.0], np.float32), "peak": np.array([norm] * 3, np.float32),
                "zeros": chance.choice([0.0, 0.3, 1.0], 3).astype(np.float32),
                "moved": np.array([moved, np.nan, moved], np.float32),
                "piled": chance.choice([np.nan, 0.01, 0.5], 3).astype(np.float32),
                "faint": chance.choice([np.nan, 0.01, 0.9], 3).astype(np.float32),
            }  # fmt: skip
            seen = [
                Activation(name="block", kind=kind, **dict.fromkeys(("rms", "peak"), np.float32(shown).item()),
                           entropy=0.25, dead=0.5, flat=0.5)
                for kind in ("", "relu", "attention", "logits")
            ]  # fmt: skip
            sampled = step < 10 or step % 10 == 1
            yield recorded(
                step, loss, norm, 0.1 * norm, chance.lognormal(), unclipped=3.0 * norm, scale=2.0 ** round(scale % 20),
                lr=0.3 if restless and chance.random() < 0.3 else 0.1,
                **(look if sampled or noise else {}), activations=tuple(seen) if sampled else (),
            )  # fmt: skip
            step += 1


def scaled(row, gradients=1.0, losses=1.0, weights=1.0, activations=1.0, scale=1.0):
    """The row of a run in other units. Shares and entropies have none."""

    def times(numbers, factor):
        with np.errstate(over="ignore"):  # past 3.4e38 it is inf, as in the black box
            return None if numbers is None else numbers * factor

    return replace(
        row, norm=times(row.norm, np.float32(gradients)), peak=times(row.peak, np.float32(gradients)),
        total=row.total * gradients, total_after=row.total_after * gradients, unclipped=times(row.unclipped, gradients),
        losses={where: loss * losses for where, loss in row.losses.items()},
        weight=times(row.weight, np.float32(weights)), scale=times(row.scale, scale),
        activations=tuple(replace(a, rms=a.rms * activations, peak=a.peak * activations) for a in row.activations),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- what is said of it


def past(rows):
    """At each row what is seen of it and what was remembered; at the end what is remembered of all."""
    history, course = History(), Course()
    for row in rows:
        seen = row.measurement()
        course = advance(course, seen)
        yield derive(seen, history, course), history
        history = learn(history, seen, Skip("test") if row.skipped else Keep(), row.total_after)
    yield course, history


def name(each):
    return type(each).__name__


def brief(finding):
    return finding and (finding.kind, finding.shape, finding.step, finding.level, finding.where)


def said(rows, only=EVERYONE):
    """Who -> what it found, at each row; of a hindsight over all of them."""
    *steps, _ = past(rows) if set(only) & set(DETECTORS) else [None]
    looked = {name(d): [brief(d.look(signals, history)) for signals, history in steps] for d in DETECTORS if d in only}
    whole = RunRecord(folder=Path(), meta={}, steps=tuple(rows))
    return looked | {name(h): [brief(h.look_back(whole))] for h in HINDSIGHTS if h in only}


# ------------------------------------------------------------------------------------------------------------- no unit


KINDS_OF_NUMBERS = ("gradients", "losses", "losses below zero", "weights", "activations", "scale")


def units_of(each):
    return getattr(each, "UNITS", {})


def in_units(rows, **powers):
    """The rows with all numbers of these kinds multiplied by powers of two, which no rounding changes."""
    return [scaled(row, **{what.split()[0]: 2.0**power for what, power in powers.items()}) for row in rows]


@few_or_many
@pytest.mark.parametrize("what", KINDS_OF_NUMBERS)
def test_a_run_in_other_units_is_the_same_run(what, examples):
    """Whoever has not declared a unit says the same of it, word by word but for the numbers."""

    @many(examples)
    @given(runs(below_zero=what == "losses below zero"), st.integers(-50, 50))
    def law(rows, power):
        assume(what != "losses" or all(loss >= 0.0 for row in rows for loss in row.losses.values()))
        found, other = said(rows), said(in_units(rows, **{what: power}))
        for each in EVERYONE:
            assert what in units_of(each) or other[name(each)] == found[name(each)], name(each)

    law()


@pytest.mark.parametrize("each", EVERYONE, ids=name)
def test_what_is_sick_is_sick_in_any_unit(each):
    """Every detector's own examples, shaken as above and in other units but for those that it declares."""
    chance = np.random.default_rng(0)
    powers = {what: 20 for what in KINDS_OF_NUMBERS if what not in units_of(each)}
    spoke = False
    for example in each.SICK:
        rows = shaken(rows_of(example), chance, 1e-5)
        if any(loss < 0 for row in rows for loss in row.losses.values()) and "losses below zero" not in powers:
            powers.pop("losses", None)
        found = said(rows, only=[each])
        for sign in (-1, 1):
            assert said(in_units(rows, **{what: sign * power for what, power in powers.items()}), only=[each]) == found
        spoke |= any(found[name(each)])
    assert spoke or name(each) == "GradWall"  # to which no number but one is sick


@pytest.mark.parametrize(
    ("each", "what"),
    [(e, what) for e in EVERYONE for what in units_of(e)],
    ids=lambda v: v if isinstance(v, str) else name(v),
)
def test_who_declares_a_unit_has_one_and_says_why(each, what):
    """In some unit it says something else of its own examples, so that it is not on the list for nothing."""
    assert what in KINDS_OF_NUMBERS and len(units_of(each)[what]) > 20
    examples = [rows_of(example) for example in (*each.SICK, *each.CALM)]
    assert any(
        said(in_units(rows, **{what: power}), only=[each]) != said(rows, only=[each])
        for rows in examples
        for power in (-20, 20)
    )


# ------------------------------------------------------------------------------------------------------------ no trace


def all_of(row, bad):
    return np.full(len(row.names), bad, np.float32)


BROKEN = {
    "loss": lambda row, bad: {"losses": dict.fromkeys(row.losses, bad)},
    "weight": lambda row, bad: {"weight": np.array([bad, *[1.0] * (len(row.names) - 1)], np.float32)},
    "peak": lambda row, bad: {"peak": all_of(row, bad), "zeros": all_of(row, bad)},
    "update": lambda row, bad: {"moved": all_of(row, bad)},
    "pile": lambda row, bad: {"piled": all_of(row, bad), "faint": all_of(row, bad)},
    "activation": lambda row, bad: {"activations": tuple(replace(a, rms=bad, peak=bad) for a in SEEN)},
    "scale": lambda row, bad: {"scale": bad},
    "norm before clipping": lambda row, bad: {"unclipped": bad},
    "learning rate": lambda row, bad: {"lr": bad},
}
ABSENT = {
    "loss": {"losses": {}}, "weight": {"weight": None}, "peak": {"peak": None, "zeros": None},
    "update": {"moved": None}, "pile": {"piled": None, "faint": None}, "activation": {"activations": ()},
    "scale": {"scale": None}, "norm before clipping": {"unclipped": math.inf}, "learning rate": {"lr": math.nan},
}  # fmt: skip
"""What a row has where that was not measured; a norm that overflowed says nothing of a trend, and is no other's."""

SEEN = [Activation(name="block", kind=kind) for kind in ("", "relu", "tanh", "softmax", "attention", "logits")]
numbers_that_broke = st.sampled_from([math.nan, math.inf, -math.inf])


def memory(rows, later=0):
    """What is remembered of a run in the end, but for what is soon forgotten; `later` by so many steps."""
    *_, (course, history) = past(rows)
    layers = history.layers
    marks = () if layers is None else [(at - later, norms.tolist()) for at, norms in layers.weights]
    known = replace(
        history, steps=history.steps - later, refused=0, layers=None,
        **{clock: at - later for clock in ("weight_at", "shown_at") if (at := getattr(history, clock)) >= 0},
    )  # fmt: skip
    return repr((replace(course, recent=()), known, marks, layers and layers.plain()["table"]))


@few_or_many
@pytest.mark.parametrize("field", BROKEN)
def test_of_a_step_that_counts_a_number_that_broke_leaves_no_trace(field, examples):
    """Whoever it was of, at whichever step: afterwards it is as if that number had not been measured there.

    A loss is one of the last RECENT for as many steps.
    """

    @many(examples)
    @given(runs(), st.floats(0, 1, exclude_max=True), numbers_that_broke)
    def law(rows, where, bad):
        at = int(where * len(rows))
        row = rows[at]
        with_it = [*rows[:at], replace(row, **BROKEN[field](row, bad)), *rows[at + 1 :]]
        without = [*rows[:at], replace(row, **ABSENT[field]), *rows[at + 1 :]]
        assert memory(with_it) == memory(without)
        after, wanted = at + 1 + RECENT * (field == "loss"), said(without)
        for who, found in said(with_it).items():
            if who in map(name, HINDSIGHTS):
                assert found == wanted[who], who
            assert found[after:] == wanted[who][after:], who

    law()


@pytest.mark.parametrize("hindsight", HINDSIGHTS, ids=name)
@pytest.mark.parametrize("field", BROKEN)
def test_looking_back_a_number_that_broke_is_one_that_was_not_measured(hindsight, field):
    """Of each of its own examples, wherever it lies."""
    for rows in map(rows_of, (*hindsight.SICK, *hindsight.CALM)):
        for at in (0, 1, len(rows) // 2, len(rows) - 1):
            without = [*rows[:at], replace(rows[at], **ABSENT[field]), *rows[at + 1 :]]
            for bad in (math.nan, math.inf):
                with_it = [*rows[:at], replace(rows[at], **BROKEN[field](rows[at], bad)), *rows[at + 1 :]]
                assert said(with_it, only=[hindsight]) == said(without, only=[hindsight])


@few_or_many
def test_a_step_that_was_refused_leaves_no_trace(examples):
    """Its gradient is nan or inf, and whatever else was measured of it may be."""

    @many(3 * examples)
    @given(runs(), st.floats(0, 1), numbers_that_broke, st.sets(st.sampled_from(sorted(BROKEN))))
    def law(rows, where, bad, fields):
        at = int(where * (len(rows) - 1))
        row = replace(rows[at], norm=all_of(rows[at], bad), total=bad, action="skip: not finite", losses={})
        for field in fields:
            row = replace(row, **BROKEN[field](rows[at], bad))
        with_it = [*rows[:at], row, *rows[at:]]
        assert memory(with_it, later=1) == memory(rows)
        after, found, wanted = at + RECENT * ("loss" in fields), said(with_it), said(rows)
        for who in map(name, DETECTORS):
            assert found[who][:at] == wanted[who][:at], who
            assert found[who][after + 1 :] == wanted[who][after:], who

    law()


# ---------------------------------------------------------------------------------------------------- the same findings


@st.composite
def recorded_runs(draw):
    """Runs as a belt measures them: norms in float64, some steps refused, several streams of losses, numbers that
    broke."""
    rows, chance = draw(runs()), np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed of the rest"))
    for i, row in enumerate(rows):
        norm = row.norm.astype(np.float64) * (1.0 + 1e-9 * chance.random(len(row.names)))
        streams = chance.permutation(["b.py:1", "a.py:2"])[: chance.integers(1, 3)].tolist()
        row = replace(row, losses=dict.fromkeys(streams, *row.losses.values()))
        row = replace(row, weight=None if row.weight is None else row.weight.astype(np.float32))
        shown = [replace(a, **{n: float(np.float32(getattr(a, n))) for n in ("rms", "peak")}) for a in row.activations]
        fields = {"norm": norm, "call": i, "activations": tuple(shown)}
        if chance.random() < 0.02:
            fields |= {"action": "skip: spike", "total_after": 0.0}
        if chance.random() < 0.05:
            fields |= BROKEN[chance.choice(sorted(BROKEN))](row, float(chance.choice([np.nan, np.inf])))
        rows[i] = replace(row, **fields)
    return rows


@few_or_many
def test_a_black_box_says_again_what_was_said_live(examples):
    """Word for word, and the same verdict over the whole: for any run, written down and read back."""

    @many(examples)
    @given(recorded_runs())
    def law(rows):
        *steps, _ = past(rows)
        live = [judge(signals, history) for signals, history in steps]
        seen = [(row.measurement(), Skip("spike") if row.skipped else Keep()) for row in rows]
        written = tuple(record(each, each, action, time=0) for each, action in seen)
        with tempfile.TemporaryDirectory() as folder:
            writer = Writer(Path(folder) / "run", {}, warn=pytest.fail)
            for row in written:
                writer.step(row)
            writer.close()
            again = load_run(Path(folder) / "run")
        assert [repr(verdict) for _, verdict, _ in replay(again)] == list(map(repr, live))
        whole = RunRecord(folder=again.folder, meta=again.meta, steps=written)
        assert repr(onset(again)) == repr(onset(whole))

    law()
