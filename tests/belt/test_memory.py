"""What the belt remembers: only what it accepted, the same after saving, the same in a replay."""

import io
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradbelt import fasten, kernels, load_run
from gradbelt._types import LATELY, ClipGroups, History, RunRecord, Scale, ScaleEach
from gradbelt.belt.decide import decide, note, with_notes
from gradbelt.belt.derive import learn
from gradbelt.belt.judge import told
from gradbelt.belt.memory import EAGER, EVERY
from gradbelt.belt.record import record
from gradbelt.blackbox import Writer
from gradbelt.clip import Chain, Norm

RULES = [
    1.0, "auto", "value:0.1", None, "schedule:0,0.5,60,2", "ema", "median", "zscore", "percentile:80", "ladder",
    "each:1", "adagc", "norm:1,1", "modules:1,1,3", "agc:0.3", "groups:*=percentile:80",
    "value:0.5+percentile:80+adagc",
]  # fmt: skip
TIMELESS = [rule for rule in RULES if "schedule" not in str(rule)]  # a schedule counts the step that was left out


class Loop:
    """One parameter tensor whose gradients are given by their norm."""

    def __init__(self, clip, **more):
        self.p = torch.nn.Parameter(torch.full((4,), 2.0))
        self.optimizer = torch.optim.SGD([self.p], lr=0.1)
        self.rows, self.found = [], []
        self.belt = fasten(None, self.optimizer, clip, write=self.rows.append, tell=self.found.extend, **more)

    def step(self, norm, loss=None):
        if loss is not None:
            self.belt.see(torch.tensor(loss))
        self.p.grad = torch.full((4,), norm / 2)
        self.optimizer.step()

    @property
    def decisions(self):
        return [(row.action, row.total_after, row.weight is not None) for row in self.rows]


def norms(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(0.4 * torch.randn(count, generator=generator)).tolist()


@pytest.mark.parametrize("clip", TIMELESS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 30])
def test_a_nan_leaves_no_trace_in_later_decisions(clip, bad, at):
    """Every later step is decided as in a run that never met it, and the history is the same."""
    struck, spared = Loop(clip), Loop(clip)
    good = norms(0, 80)
    for i, norm in enumerate(good):
        if i == at:
            noted = struck.belt.histories[0].notes if at else {}
            struck.step(bad, loss=bad)
            assert struck.belt.histories[0].notes == noted
        struck.step(norm)
        spared.step(norm)
    assert struck.rows[at].action == f"skip: {bad}"
    del struck.rows[at]
    assert [decision[:2] for decision in struck.decisions] == [decision[:2] for decision in spared.decisions]
    assert struck.belt.histories[0].levels == spared.belt.histories[0].levels
    assert struck.belt.histories[0].accepted == spared.belt.histories[0].accepted
    assert struck.belt.histories[0].notes == spared.belt.histories[0].notes
    assert torch.equal(struck.p, spared.p)


@pytest.fixture
def weight_reads(monkeypatch):
    """How often weights have been read: one entry for each of the steps at which they were."""
    reads, look = [], kernels.look

    def counted(gradients, weights=(), **how):
        reads.extend([True] if len(weights) else [])
        return look(gradients, weights, **how)

    monkeypatch.setattr(kernels, "look", counted)
    return reads


@pytest.mark.parametrize("hard", [1.0, 1e6])
def test_clipping_hard_at_every_step_costs_no_reading_of_weights(weight_reads, hard):
    """However far above the threshold the norms are, weights are read at the first ten steps and every tenth."""
    loop = Loop(1e-3)
    for norm in norms(0, 100):
        loop.step(hard * (1.0 + 0.5 * norm))
    assert {row.action for row in loop.rows} == {"scale"}
    assert len(weight_reads) == EAGER + (100 - EAGER) // EVERY
    assert [row.step for row in loop.rows if row.weight is not None] == [*range(10), *range(10, 100, 10)]


@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("jump", [20.0, math.nan])
def test_the_weights_that_a_jump_leaves_behind_are_read(weight_reads, clip, guard, jump):
    """At the step after it, also where every step is clipped to the same norm, and in a belt that was saved before."""
    loop = Loop(clip, guard=guard)
    for i, norm in enumerate([1.0] * 33 + [jump] + [1.0] * 6):
        if i == 33:
            state = json.loads(json.dumps(loop.belt.state_dict()))
            loop.belt.forget()
            loop.belt.load_state_dict(state)
        loop.step(norm)
    assert [row.step for row in loop.rows if row.weight is not None][-2:] == [30, 34]
    assert len(weight_reads) == EAGER + 3 + 1


def test_a_new_level_is_no_jump_for_long(weight_reads):
    """Norms that go up and stay there are a jump until half of those remembered are from there."""
    loop = Loop(1e-3)
    for i in range(100):
        loop.step(1.0 if i < 30 else 100.0)
    after = [row.step for row in loop.rows if row.weight is not None and row.step > 30]
    assert set(range(31, 31 + LATELY // 2 - 1)) <= set(after)
    assert [step for step in after if step > 30 + LATELY // 2 + 1] == [50, 60, 70, 80, 90]


def through_json(state):
    return json.loads(json.dumps(state))


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("clip", RULES)
@pytest.mark.parametrize("through", [through_json, through_torch], ids=["json", "torch"])
@settings(max_examples=3, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_a_belt_saved_and_loaded_decides_as_if_it_had_never_stopped(clip, through, at, seed):
    """Saved anywhere, spikes and all, through JSON or torch.save: same actions, same findings."""
    course = norms(seed, 80)
    course[at] *= 1000.0
    whole, part = Loop(clip), Loop(clip)
    for i, norm in enumerate(course):
        if i == at + 1:
            resumed = Loop(clip)
            resumed.belt.load_state_dict(through(part.belt.state_dict()))
            assert resumed.belt.histories == part.belt.histories
            assert resumed.belt.course == part.belt.course
            with torch.no_grad():
                resumed.p.copy_(part.p)
            resumed.rows, resumed.found = list(part.rows), list(part.found)
            resumed.belt._write, resumed.belt._tell = resumed.rows.append, resumed.found.extend
            part = resumed
        whole.step(norm, loss=norm)
        part.step(norm, loss=norm)
    assert part.decisions == whole.decisions
    assert part.found == whole.found
    assert part.belt.state_dict() == whole.belt.state_dict()


def test_the_state_is_plain_numbers_and_text():
    """Nothing in it needs torch or gradbelt to be read."""
    loop = Loop("auto")
    for norm in norms(1, 5):
        loop.step(norm, loss=norm)
    assert json.loads(json.dumps(loop.belt.state_dict()))["calls"] == 5


@pytest.mark.parametrize("clip", RULES)
@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-30, 0.9, 1.0, 1.1, 50.0, 1e6, 1e30, math.nan, math.inf]), max_size=70))
def test_a_replay_finds_what_was_found_live(clip, course):
    """The record alone gives the same findings, value for value."""
    loop = Loop(clip)
    for norm in course:
        loop.step(norm, loss=norm)
    record = RunRecord(folder=Path(), meta={}, steps=tuple(loop.rows))
    assert repr(list(told(record))) == repr(loop.found)


@pytest.mark.parametrize("clip", [rule for rule in RULES if rule is not None and "+" not in str(rule)])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_replay_decides_what_was_decided_live(clip, seed, tmp_path_factory):
    """A rule and the black box alone give the same actions; AGC also needs the weights to know whether it acted, other
    orders than 2 the gradients."""
    folder = tmp_path_factory.mktemp("replay")
    writer = Writer(folder, {}, warn=print)
    loop = Loop(clip)
    loop.belt._write = writer.step
    for i, norm in enumerate(norms(seed, 130)):
        norm *= 1000.0 if i in (40, 60, 61, 62, 63) else 1.0
        loop.step(math.nan if i == 50 else norm, loss=norm)
    writer.close()
    (rule,) = loop.belt.rules
    history = History()
    for row in load_run(folder).steps:
        seen = row.measurement()
        action = decide(seen, history, rule, guard=True)
        name = record(seen, seen, action, time=0.0).action
        if isinstance(action, ClipGroups):
            assert row.action in ("keep", "scale", "scale each")
        else:
            assert name == row.action or (name, row.action) == ("agc", "keep")
        if isinstance(action, Scale | ScaleEach):
            factor = action.coefficient if isinstance(action, Scale) else action.coefficients[0]
            assert row.total * factor == pytest.approx(row.total_after, rel=1e-6)
        notes = note(seen, history, rule, action)
        history = with_notes(learn(history, seen, action, row.total_after), notes)


def test_a_black_box_replays_what_was_found_live(tmp_path):
    """Also after the record went through the file, where norms are float32."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    writer, found = Writer(tmp_path, {}, warn=print), []
    belt = fasten(model, optimizer, clip=None, guard=False, write=writer.step, tell=found.extend)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 30.0 if step in (8, 45) else 0.01
        optimizer.zero_grad()
        x = torch.randn(4, 7, generator=generator) * (1e4 if step == 40 else 1.0)
        belt.see(model(x).square().mean(), "train.py:3").backward()
        optimizer.step()
    writer.close()
    assert any("times as large" in f.message for f in found), "the weights that replay must be in it"
    assert repr(list(told(load_run(tmp_path)))) == repr(found)


def test_a_taken_back_step_of_lbfgs_replays_as_it_was_found():
    """The record of a step that went bad in a later evaluation gives the findings that were told."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([p], lr=0.1, max_iter=4)
    rows, found = [], []
    belt = fasten(None, optimizer, clip=None, write=rows.append, tell=found.extend)
    count = 0

    def closure():
        nonlocal count
        optimizer.zero_grad()
        loss = belt.see((p - 3).square().sum())
        loss.backward()
        count += 1
        if count in (7, 8):
            p.grad[0] = math.nan
        return loss

    for _ in range(4):
        optimizer.step(closure)
    record = RunRecord(folder=Path(), meta={}, steps=tuple(rows))
    assert [f.kind for f in found] == ["nan_grad", "nan_grad"][: len(found)]
    assert found
    assert repr(list(told(record))) == repr(found)


def test_a_spike_is_told_with_the_parameter_that_holds_most_of_it():
    """The name in the message is the largest gradient's; of gradients of one size, the last one's. It is told once."""
    ps = [torch.nn.Parameter(torch.zeros(2)) for _ in range(5)]
    optimizer = torch.optim.SGD(ps, lr=0.0)
    found = []
    fasten(None, optimizer, clip=None, tell=found.extend)
    for step in range(40):
        for i, p in enumerate(ps):
            p.grad = torch.full((2,), (1e3 if step > 37 else 1.0) * (1.0 + (i in (1, 3))))
        optimizer.step()
    assert [finding.where for finding in found] == ["parameter 3"]


def test_peaks_and_zeros_are_sampled_with_the_weights_and_replayed(tmp_path):
    """Where weights are sampled the black box also keeps each gradient's largest magnitude and share of zeros."""
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([p], lr=0.1)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    shown = []

    class Watching(Norm):
        def decide(self, seen, history):
            shown.append(seen.peak)
            return super().decide(seen, history)

    fasten(None, optimizer, Chain(Watching(4.0), Watching(2.0)), write=writer.step)
    for _ in range(22):
        p.grad = torch.tensor([0.0, -3.0, 0.0, 4.0])
        optimizer.step()
    writer.close()
    steps = load_run(tmp_path).steps
    assert [row.step for row in steps if row.peak is not None] == [*range(10), 10, 20]
    for row in steps:
        seen = row.measurement()
        if row.weight is None:
            assert seen.peak is None and seen.zeros is None
        else:
            assert seen.peak.tolist() == [4.0] and seen.zeros.tolist() == [0.5], "as it was before the belt clipped"
    assert shown[0].tolist() == [4.0] and shown[1] is None, "the second rule is shown a gradient that was scaled since"
