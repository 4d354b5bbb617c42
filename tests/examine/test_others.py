"""The batch of the onset is set beside others that meet the same weights, and each of its rows beside the others."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.seams.conftest import SCRIPTS, watched  # noqa: F401  fixture
from torch import nn

from gradbelt._types import Activation, Event, Evidence, Onset
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.causes import Case
from gradbelt.causes.attention_logits import AttentionLogits
from gradbelt.causes.data_outlier import DataOutlier
from gradbelt.causes.learning_rate import LearningRate
from gradbelt.examine.others import BESIDE, EVENT, Others, beside_others, until
from gradbelt.examine.reproduce import is_affordable, on_record
from gradbelt.supervise.plan import Plan
from gradbelt.testing import make_run

linux = pytest.mark.skipif(sys.platform != "linux", reason="snapshots need Linux")
FULL_BATCH = """
import torch
torch.manual_seed(0)
x = torch.randn(64, 8)
y = x @ torch.randn(8, 1)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
for step in range(60):
    batch = x.clone()
    if step == 30:
        batch[17] *= 1e9
    loss = (model[2](model[0](batch)) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


# ------------------------------------------------------------------------------------------------ the weights lie still


@linux
def test_the_same_batch_makes_the_same_gradient_for_no_update_is_made(watched, tmp_path):  # noqa: F811
    """Momentum and weight decay would move the weights even without a gradient."""
    script = tmp_path / "train.py"
    script.write_text(FULL_BATCH)
    done = watched(script, options=("--no-trials",))
    record = load_run(done.folder / "again" / "others")
    norms = {row.step: row.total for row in record.steps}
    assert list(norms) == list(range(29, 30 + BESIDE + 1))
    assert len({norm for step, norm in norms.items() if step != 30}) == 1
    found = beside_others(record, done.verdict["first_bad_step"])
    assert found["batch_ratio"] == pytest.approx(norms[30] / norms[31])
    assert found["batch_ratio"] > 1e6
    assert found["example_ratio"] > 1e6
    assert found["example_share"] > 0.99
    assert done.verdict["causes"][0]["cause"] == "data_outlier"
    assert any("of other batches at the same weights" in said for said in done.verdict["causes"][0]["evidence"])


@linux
def test_a_loop_by_hand_is_held_still_too(watched):  # noqa: F811
    done = watched(SCRIPTS / "by_hand.py", options=("--no-trials",))
    record = load_run(done.folder / "again" / "others")
    norms = {row.step: row.total for row in record.steps}
    assert len({norm for step, norm in norms.items() if step != 12}) == 1
    assert beside_others(record, 12)["batch_ratio"] == math.inf


@pytest.mark.slow
@linux
def test_where_the_weights_are_at_fault_other_batches_make_gradients_alike(watched, tmp_path):  # noqa: F811
    script = tmp_path / "train.py"
    leap = "    optimizer.param_groups[0]['lr'] = 0.02 if step < 30 else 2.0\n    i ="
    script.write_text((SCRIPTS / "diverges.py").read_text().replace("    i =", leap))
    done = watched(script, options=("--no-trials",))
    assert done.verdict["first_bad_step"] >= 30
    found = beside_others(load_run(done.folder / "again" / "others"), done.verdict["first_bad_step"])
    assert found["batch_ratio"] < 3


# ------------------------------------------------------------------------------------------------------ row against row


def told(steps, *, bad=4, step=4):
    """What `Others` leaves of a script that is woken at `step`."""
    events = []
    patient = SimpleNamespace(
        belt=SimpleNamespace(step=step, rules=[]),
        after_backward=[], at_step=[], at_end=[],
        event=lambda kind, _message, **data: events.append((kind, data)),
    )  # fmt: skip
    with ExitStack() as stack:
        patient.enter = stack.enter_context
        Others(bad - 1, bad).fit(patient)
        for loss in steps:
            loss().backward()
            for act in patient.after_backward:
                act([])
    for act in patient.at_end:
        act()
    assert all(kind == EVENT for kind, _ in events)
    return {data["at"]: data for _, data in events}


def test_a_rows_part_is_the_norm_of_its_own_gradient():
    """Against the obvious way: one backward for each row."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9, bias=False), nn.Tanh(), nn.Linear(9, 3, bias=False))
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    x[5] *= 50
    own = []
    for row in range(8):
        loss = nn.functional.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        own.append(math.hypot(*(float(g.norm()) for g in torch.autograd.grad(loss, list(model.parameters())))))
    found = told([lambda: nn.functional.cross_entropy(model(x), y)])[4]
    assert found["ratio"] == pytest.approx(max(own) / sorted(own)[3:5][0], rel=0.2)
    assert found["share"] == pytest.approx(max(own) / sum(own), rel=1e-5)


def test_of_several_passes_all_rows_count():
    model, x = nn.Linear(4, 1, bias=False), torch.ones(4, 4)
    (found,) = told([lambda: model(x).sum(), lambda: (2 * model(x)).sum(), lambda: (6 * model(x)).sum()]).values()
    assert found["share"] == pytest.approx(6 / (4 * (1 + 2 + 6)))


def test_only_the_batches_of_the_onset_are_told_apart():
    model, x = nn.Linear(4, 1), torch.randn(8, 4)
    assert told([lambda: model(x).square().sum()], step=2) == {}
    assert list(told([lambda: model(x).square().sum()], step=3)) == [3]


def test_convolutions_and_sequences_have_rows_and_a_layer_that_is_fed_with_others_is_left_out():
    torch.manual_seed(0)
    convolution, head = nn.Conv2d(1, 2, 3), nn.Linear(2, 1)
    pictures, words = torch.randn(6, 1, 8, 8), torch.randn(6, 10, 2)
    pictures[2] *= 100
    words[4] *= 100
    assert told([lambda: head(convolution(pictures).mean((2, 3))).square().sum()])[4]["share"] > 0.9
    assert told([lambda: head(words).square().sum()])[4]["share"] > 0.9
    alike = torch.ones(6, 2)
    twice = told([lambda: head(nn.functional.linear(alike, torch.eye(2, requires_grad=True)).repeat(2, 1)).sum()])[4]
    assert twice["share"] == pytest.approx(1 / 6)


# ------------------------------------------------------------------------------------------------ what was left is read


def held_still(norms, *events, bad=6, first=4):
    """A run whose steps from `first` on were left out, and had gradients of these norms."""
    rows = [
        replace(row, total=norm, total_after=0.0, action="skip: others")
        for row, norm in zip(make_run("healthy").steps[first:], norms, strict=False)
    ]
    return replace(make_run("healthy"), steps=tuple(rows), events=events)


def rows_at(step, ratio, share=0.5):
    return Event(call=step, step=step, kind=EVENT, message="", data={"at": step, "ratio": ratio, "share": share})


def test_the_batch_is_set_beside_the_median_of_the_others():
    found = beside_others(held_still([1.0, 2.0, 50.0, 1.0, 3.0], rows_at(5, 7.0), rows_at(6, 80.0, 0.9)), 6)
    assert found == {"batch_ratio": 50.0, "example_ratio": 80.0, "example_share": 0.9}


def test_the_batch_of_the_step_before_counts_as_well():
    found = beside_others(held_still([1.0, 50.0, 2.0, 1.0, 1.0], rows_at(5, 7.0), rows_at(6, 80.0)), 6)
    assert (found["batch_ratio"], found["example_ratio"]) == (50.0, 7.0)


def test_the_norm_before_the_scripts_own_clip_is_the_one():
    run = held_still([1.0] * 6)
    steps = tuple(replace(row, unclipped=40.0 if row.step == 6 else 2.0) for row in run.steps)
    assert beside_others(replace(run, steps=steps), 6)["batch_ratio"] == 20.0


def test_a_gradient_that_is_not_finite_stands_out_infinitely():
    assert beside_others(held_still([1.0, 1.0, math.nan, 1.0, 1.0]), 6)["batch_ratio"] == math.inf


def test_nothing_is_said_where_the_weights_moved_or_too_few_others_came_by():
    run = held_still([1.0, 1.0, 50.0, 1.0, 1.0])
    moved = tuple(replace(row, action="keep") for row in run.steps)
    assert beside_others(replace(run, steps=moved), 6) == {}
    assert beside_others(held_still([1.0, 1.0, 50.0, 1.0]), 6) == {}
    assert beside_others(held_still([1.0, 1.0]), 6) == {}


@pytest.mark.parametrize(("healthy", "bad", "last"), [(29, 30, 35), (26, 30, 32), (20, 30, 30)])
def test_it_goes_on_until_five_others_have_come_by(healthy, bad, last):
    assert until(healthy, bad) == last
    assert len(set(range(healthy, last + 1)) - {bad - 1, bad}) >= BESIDE


@pytest.mark.parametrize(
    ("seconds", "bad", "goes"),
    [(0.1, 12, True), (2.0, 12, False), (2.0, 40, True), (2.0, 0, True)],
)
def test_it_is_left_where_steps_are_slow_and_the_way_was_short(seconds, bad, goes):
    """Seven steps: less than five seconds, or than three tenths of the way."""
    run = make_run("healthy")
    run = replace(run, steps=tuple(replace(row, time=3.0 + seconds * row.step) for row in run.steps))
    plan = Plan(script="x", folder="y", seed=0, trace_from=bad - 1, trace_step=bad, horizon=bad + 6)
    assert is_affordable(run, plan) is goes


def test_what_the_watched_run_has_on_record_is_read_at_the_last_look_before_the_onset():
    run = make_run("healthy")
    attention = [
        (Activation(name="a", kind=kind, peak=peak, entropy=0.5), Activation(name="b", kind="relu", peak=1e9))
        for kind, peak in (("attention", 3.0), ("softmax", 60.0), ("attention", 900.0))
    ]
    looks = {2: attention[0], 7: attention[1], 9: attention[2]}
    steps = tuple(
        replace(
            row,
            activations=looks.get(row.step, ()),
            moved=make_moved(0.1 * row.step) if row.step in (3, 8, 9) else None,
        )
        for row in run.steps
    )
    found = on_record(replace(run, steps=steps), 9)
    assert found == {"attended": 60.0, "entropy": 0.5, "moved": pytest.approx(0.8)}
    assert on_record(run, 9) == {}


def make_moved(share):
    """Of three matrices, and of a bias that isn't one."""
    return torch.tensor([share, math.nan, 5.0, 0.0]).numpy()


# --------------------------------------------------------------------------------------------------- what it speaks for


def nats(cause, kind="explodes", **evidence):
    """What a cause weighs for a run whose gradient jumps at the onset, or, of kind "healthy", does not."""
    run = make_run(kind)
    found = onset(run) if kind == "explodes" else Onset(exploded=True, warning_step=40, bad_step=40, findings=())
    there = Case(record=run, onset=found, evidence=Evidence(reproduced=True, **evidence))
    return sum(clue.nats for clue in cause.weigh(there))


def test_a_batch_unlike_others_speaks_for_the_data_and_against_the_learning_rate():
    alone = {"batch_ratio": 400.0, "example_ratio": 90.0, "example_share": 0.9}
    assert nats(DataOutlier(), **alone) == nats(DataOutlier()) + 4
    assert nats(LearningRate(), **alone) == nats(LearningRate()) - 2
    assert nats(DataOutlier(), batch_ratio=400.0) == nats(DataOutlier()) + 2
    assert nats(DataOutlier(), batch_ratio=1.2) == nats(DataOutlier()) - 3
    assert nats(DataOutlier(), "healthy", batch_ratio=1.2) == nats(DataOutlier(), "healthy") - 1
    assert nats(DataOutlier(), batch_ratio=5.0) == nats(DataOutlier())


def test_a_batch_whose_rows_are_all_alike_holds_no_outlier():
    alike = {"batch_ratio": 400.0, "example_ratio": 2.0, "example_share": 0.05}
    assert nats(DataOutlier(), **alike) == nats(DataOutlier())
    assert nats(LearningRate(), **alike) == nats(LearningRate())


def test_updates_as_large_as_the_weights_speak_for_the_learning_rate():
    assert nats(LearningRate(), moved=0.5) == nats(LearningRate()) + 1
    assert nats(LearningRate(), moved=0.01) == nats(LearningRate())


def test_attention_that_has_become_sharp_speaks_for_its_logits_and_small_ones_against():
    plain = nats(AttentionLogits(), attention=True)
    assert nats(AttentionLogits(), attention=True, attended=80.0, entropy=0.1) == plain + 4  # and it is not usual
    assert nats(AttentionLogits(), attention=True, attended=80.0, entropy=0.9) == plain
    assert nats(AttentionLogits(), attention=True, attended=2.0, entropy=0.9) == plain - 1
