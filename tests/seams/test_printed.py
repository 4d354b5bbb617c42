"""A script that goes on to print a loss while it has none is told so."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt.supervise.output import Heard
from gradbelt.supervise.printed import BROKEN, Printed
from gradbelt.symptoms.rows import recorded

NAN = float("nan")


def told(losses, print_):
    """The misfits found in a run with these losses that calls `print_(step, output)` after each."""
    found = []
    patient = SimpleNamespace(at_step=[], misfit=found.append, belt=SimpleNamespace(step=0))
    output = Heard(io.BytesIO(), encoding="utf-8")
    Printed(patient, output)
    for step, loss in enumerate(losses):
        patient.belt.step = step + 1
        for act in patient.at_step:
            act(recorded(step, loss, 1.0))
        print_(step, output)
    return found


def lines(text):
    return lambda step, output: print(text, file=output)


@pytest.mark.slow
def test_a_script_whose_mean_passes_nan_over_is_told_and_one_that_shows_it_is_not(watched):
    hides = watched(SCRIPTS / "hidden_nan.py", "hidden")
    assert "the script prints a loss of 0." in hides.stderr
    assert [each["kind"] for each in hides.verdict["buckle"]] == ["nan_not_shown"]
    shows = watched(SCRIPTS / "hidden_nan.py", "shown")
    assert shows.verdict["buckle"] == []
    assert shows.verdict["exploded"]


@pytest.mark.parametrize("line", ["loss 0.25", "epoch 3 train_loss=2.5e-1", "Loss: 3", "INFO | loss | 0.25 |"])
def test_a_finite_loss_among_broken_ones_is_found_once(line):
    found = told([1.0, 1.0, *[NAN] * 10], lines(line))
    assert [each.kind for each in found] == ["nan_not_shown"]
    assert found[0].step == 2 + BROKEN


def test_a_line_that_is_written_in_parts_is_read_as_one():
    def parts(step, output):
        output.write("step 1: lo")
        output.write("ss 0.25")
        output.write("\nnext")

    assert len(told([NAN] * 10, parts)) == 1


@pytest.mark.parametrize("line", [
    "loss nan", "loss inf", "val loss 0.25", "eval_loss=0.25", "best loss so far 0.25", "lowest loss 0.2", "acc 0.25",
    "step 3", "initial loss: 2.3", "glossary 3", "loss 0.25 (3 nan)",
])  # fmt: skip
def test_other_lines_are_let_be(line):
    assert told([NAN] * 10, lines(line)) == []


def test_losses_that_break_now_and_then_or_in_one_stream_only_are_let_be():
    assert told([1.0, NAN, NAN] * 10, lines("loss 0.25")) == []
    assert told([1.0] * 10, lines("loss 0.25")) == []


def test_what_is_printed_arrives_whoever_listens():
    raw = io.BytesIO()
    output = Heard(raw, encoding="utf-8")
    heard = []
    output.hear = heard.append
    print("one", 2, file=output, flush=True)
    assert raw.getvalue() == b"one 2\n"
    assert "".join(heard) == "one 2\n"
