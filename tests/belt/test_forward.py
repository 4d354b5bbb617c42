"""What is seen of forward passes, and that nobody notices: same numbers to the bit, everything put back."""

from __future__ import annotations

import copy
import gc
import math
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gradbelt
from gradbelt.belt import activations, forward
from gradbelt.belt.activations import attended, grid, of_rows
from gradbelt.belt.forward import Forward
from gradbelt.belt.taps import ATTENTION, LOSSES

HOOKS = torch.nn.modules.module


def state_of_torch():
    """Everything that looking changes while it looks."""
    functions = [vars(tap.owner).get(tap.name) for tap in (*ATTENTION, *LOSSES)]
    return functions, dict(HOOKS._global_forward_hooks), dict(HOOKS._global_forward_pre_hooks)


def clear():
    """Belts that nobody released are gone, and with the next forward what they had put on."""
    gc.collect()
    nn.Identity()(0)


@pytest.fixture(autouse=True)
def put_back():
    """Whatever a test does, torch is afterwards as it was."""
    clear()
    before = state_of_torch()
    yield
    clear()
    assert state_of_torch() == before


class Mixed(nn.Module):
    """A little of everything: functions, an in-place module, a cell called often, a tuple, dropout, an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.inplace = nn.ReLU(inplace=True)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.cell = nn.GRUCell(16, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.inplace(self.first(x))
        h = self.third(torch.tanh(self.second(h)))
        for _ in range(9):
            h = self.cell(self.dropout(h), h)
        sequence, _ = self.lstm(h.unsqueeze(1).expand(-1, 6, -1))
        q = sequence.unflatten(-1, (2, 8)).transpose(1, 2)
        sequence = sequence + F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).flatten(2)
        return {"logits": self.out(sequence[:, -1])}


def trained(share, steps=12, kind=torch.optim.Adam, model=Mixed):
    """The parameters and random states after some steps, and what was recorded."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    net, rows = model(), []
    optimizer = kind(net.parameters(), lr=1e-2)
    belt = gradbelt.fasten(net, optimizer, clip=None, activations=share, write=rows.append)
    for _ in range(steps):
        x, y = torch.randn(32, 8), torch.randint(0, 5, (32,))

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = belt.see(F.cross_entropy(net(x)["logits"], y))
            loss.backward()
            return loss

        optimizer.step(closure)
    belt.release()
    after = [p.detach().clone() for p in net.parameters()]
    return after, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()), rows


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.LBFGS], ids=lambda kind: kind.__name__)
def test_looking_changes_no_bit_and_draws_no_number(kind):
    with_it, random_with, rows = trained(math.inf, kind=kind)
    without, random_without, bare = trained(0.0, kind=kind)
    assert all(map(torch.equal, with_it, without))
    assert torch.equal(random_with[0], random_without[0]) and random_with[1:] == random_without[1:]
    assert all(row.activations for row in rows[1:]) and not any(row.activations for row in bare)


def test_what_modules_and_functions_make_is_seen_in_the_order_in_which_they_ran():
    _, _, rows = trained(math.inf, steps=2)
    seen = [(each.name, each.kind) for each in rows[-1].activations]
    assert seen == [
        ("first", ""), ("inplace", "relu"), ("second", ""), ("third.input", "tanh"), ("third", ""), ("dropout", ""),
        ("cell", ""), ("lstm", ""), ("attention", "attention"), ("out", ""), ("logits", "logits"),
    ]  # fmt: skip
    shares = {each.name: each for each in rows[-1].activations}
    assert 0.2 < shares["inplace"].zeros < 0.8 and math.isnan(shares["third.input"].dead)
    assert 0 <= shares["third.input"].flat < 0.1 and 0.9 < shares["logits"].entropy <= 1.0


def test_the_numbers_are_those_of_the_whole_where_it_is_small():
    """An activation of no more than 64 rows and units is looked at whole."""
    torch.manual_seed(0)
    x, net = torch.randn(40, 8), nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 1))
    with torch.no_grad():
        net[0].bias[:3] = -100.0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with gradbelt.fasten(net, optimizer, activations=math.inf) as belt:
        for _ in range(2):
            net(x).sum().backward()
            optimizer.step()
    h = net[1](net[0](x)).detach().double()
    (relu,) = [each for each in belt.last.activations if each.kind == "relu"]
    assert relu.name == "1"
    assert relu.rms == pytest.approx(float(h.square().mean().sqrt()), rel=1e-6)
    assert relu.peak == pytest.approx(float(h.max())) and relu.zeros == pytest.approx(float((h == 0).double().mean()))
    assert relu.dead == pytest.approx(3 / 30)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("masked", [None, "bool", "float"])
def test_logits_of_a_fused_attention_are_those_of_its_definition(causal, shared, masked):
    """Entropy and largest logit, against the textbook's matrix written out in float64."""
    torch.manual_seed(1)
    query, key = 3 * torch.randn(2, 4, 7, 8), 3 * torch.randn(2, 4 // shared, 9, 8)
    mask = None if masked is None else torch.rand(2, 1, 7, 9) > 0.3
    if mask is not None:
        mask[..., 0] = True
    logits = query.double() @ key.double().repeat_interleave(shared, 1).mT / math.sqrt(8)
    hidden = torch.zeros_like(logits, dtype=torch.bool)
    if causal:
        hidden |= ~torch.ones(7, 9, dtype=torch.bool).tril()
    if mask is not None:
        hidden |= ~mask
    given = mask if masked != "float" or mask is None else torch.zeros(2, 1, 7, 9).masked_fill(~mask, -math.inf)
    seen = of_rows(attended(query, key, given, causal=causal, scale=None))
    p = logits.masked_fill(hidden, -math.inf).softmax(-1)
    count = (~hidden).sum(-1)
    entropy = -torch.where(p > 0, p * p.log(), 0.0).sum(-1)[count > 1] / count[count > 1].log()
    assert float(seen[1]) == pytest.approx(float(logits[~hidden].abs().max()), rel=1e-5)
    assert float(seen[2]) == pytest.approx(float(entropy.mean()), rel=1e-4)
    assert float(seen[0]) == pytest.approx(float(logits[~hidden].square().mean().sqrt()), rel=1e-5)


def test_a_softmax_by_hand_is_seen_in_whichever_way_it_is_called():
    class Hand(nn.Module):
        def __init__(self, softmax):
            super().__init__()
            self.q, self.softmax = nn.Linear(8, 8), softmax

        def forward(self, x):
            return self.softmax(self.q(x) @ x.mT) @ x

    ways = (
        lambda a: F.softmax(a, dim=-1), lambda a: a.softmax(-1), lambda a: torch.softmax(a, dim=-1), nn.Softmax(dim=-1)
    )  # fmt: skip
    seen = []
    for way in ways:
        torch.manual_seed(0)
        net = Hand(way)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        with gradbelt.fasten(net, optimizer, activations=math.inf) as belt:
            for _ in range(2):
                net(torch.ones(3, 6, 8)).sum().backward()
                optimizer.step()
        seen += [each.entropy for each in belt.last.activations if each.kind == "softmax"]
    assert len(seen) == 4 and len(set(seen)) == 1 and seen[0] == pytest.approx(1.0)


def steps_of(net, forward_pass, share=math.inf, steps=3):
    """What is seen at the last of some steps of a loop that somebody wrote."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    rows = []
    with gradbelt.fasten(net, optimizer, activations=share, write=rows.append) as belt:
        for _ in range(steps):
            optimizer.zero_grad()
            forward_pass(belt)
            optimizer.step()
    return [(each.name, each.kind) for each in rows[-1].activations]


def test_passes_that_are_no_training_are_not_looked_at():
    """Without gradients, in another thread, under torch.func; one in eval mode only where there is no other."""
    net, other = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
    x = torch.randn(5, 4)

    def without(_):
        with torch.no_grad():
            other(x)
        with torch.inference_mode():
            other(x)
        thread = threading.Thread(target=lambda: other(x))
        thread.start()
        thread.join()
        torch.func.vmap(other)(x)
        torch.func.grad(lambda x: other(x).sum())(x)
        net.eval()
        other.eval()
        other(x)
        net.train()
        net(x).sum().backward()

    assert steps_of(net, without) == [("0", ""), ("1", "")]

    def always_eval(_):
        net.eval()
        net(x).sum().backward()

    assert steps_of(net, always_eval) == [("0", ""), ("1", "")]


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_is_not_seen_twice(reentrant, monkeypatch):
    taken = []
    monkeypatch.setattr(forward, "grid", lambda value: taken.append(value) or grid(value))
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net = nn.ModuleDict({"inner": inner, "out": nn.Linear(4, 1)})
    x = torch.randn(5, 4, requires_grad=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = net

        def forward(self, x):
            return self.parts["out"](checkpoint(self.parts["inner"], x, use_reentrant=reentrant))

    model = Net()
    seen = steps_of(model, lambda _: model(x).sum().backward())
    assert [name for name, _ in seen] == ["parts.inner.0", "parts.inner.1", "parts.out"]
    assert len(taken) == 2 * len(seen)  # at two of the three steps


def test_a_module_called_often_is_kept_once_by_a_call_at_a_power_of_two():
    cell = nn.RNNCell(4, 4)
    counted = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            h = x
            for _ in range(13):
                h = self.cell(x, h)
                counted.append(float(h.detach().double().square().mean().sqrt()))
            return h

    net = Net()
    rows = []
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    with gradbelt.fasten(net, optimizer, activations=math.inf, write=rows.append):
        for _ in range(2):
            counted.clear()
            net(torch.randn(5, 4)).sum().backward()
            optimizer.step()
    (seen,) = rows[-1].activations
    assert (seen.name, seen.kind) == ("cell", "tanh")
    assert seen.rms == pytest.approx(counted[7], rel=1e-6)


def test_a_loop_without_a_model_class_a_wrapper_and_two_models_have_their_names():
    generator, critic = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    wrapped = nn.ModuleList([nn.DataParallel(critic)])[0]
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3) for m in (critic, generator)]
    rows = []
    both = nn.ModuleDict({"generator": generator, "critic": critic})
    with gradbelt.fasten(both, optimizers, activations=math.inf, write=rows.append):
        for _ in range(3):
            for optimizer in optimizers:
                wrapped(generator(torch.randn(8, 2))).sum().backward()
                optimizer.step()
    seen = [[each.name for each in row.activations] for row in rows]
    assert seen[0] == []
    names = ["generator", "critic.0", "critic.1", "critic.2"]
    assert seen[2:] == [names] * 4


def test_odd_modules_are_left_alone():
    """Tensors that are sparse, on no device, quantised, of integers, of a class of their own, or none at all."""

    class Odd(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def forward(self, x):
            return self.make(x)

    class Own(torch.Tensor):
        pass

    makes = [
        lambda x: x.to_sparse(), lambda x: torch.empty(3, 3, device="meta"), lambda x: x.long(), lambda x: None,
        lambda x: torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8), lambda x: x.as_subclass(Own),
        lambda x: [x.long(), {"a": x}], lambda x: iter([x]), lambda x: x[:0], lambda x: x.sum(), lambda x: "text",
    ]  # fmt: skip
    net = nn.Linear(3, 3)
    odd = [Odd(make) for make in makes]

    def forward_pass(_):
        x = net(torch.randn(4, 3))
        for each in odd:
            each(x)
        x.sum().backward()

    assert steps_of(net, forward_pass) == [("Linear", "")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_seen_as_they_are(dtype):
    assert grid(torch.full((4, 3), 1000.0, dtype=dtype)).tolist() == [[1000.0] * 3] * 4
    assert float(of_rows(torch.full((4, 3), 200.0, dtype=dtype))[1]) == 200.0


def test_units_of_images_and_of_convolved_sequences_are_their_channels():
    """A dead channel is seen as one, wherever the channels lie."""
    for conv, x in ((nn.Conv1d(2, 6, 3), torch.randn(4, 2, 50)), (nn.Conv2d(2, 6, 3), torch.randn(4, 2, 9, 9))):
        with torch.no_grad():
            conv.bias[:2] = -100.0
        seen = grid(torch.relu(conv(x)))
        assert seen.shape[1] == 6 and seen.shape[0] > 20
        assert (seen == 0).all(dim=0).tolist() == [True, True, False, False, False, False]


def test_a_forward_that_raises_leaves_names_and_hooks_right():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError("the script's own")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.fails, self.out = nn.Linear(4, 4), nn.Sequential(Fails()), nn.Linear(4, 1)

        def forward(self, x):
            x = self.first(x)
            try:
                x = self.fails(x)
            except ValueError:
                return self.out(x)

    net = Net()

    def forward_pass(_):
        with pytest.raises(ValueError, match="own"):
            net.fails(torch.zeros(1, 4))
        net(torch.randn(5, 4)).sum().backward()

    assert [name for name, _ in steps_of(net, forward_pass)] == ["first", "out"]


def test_a_step_that_raises_and_a_belt_that_is_released_leave_nothing_behind():
    """The fixture compares torch before and after."""
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    belt = gradbelt.fasten(net, optimizer, activations=math.inf)
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert belt.forward.on
    net(torch.ones(2, 4))
    belt.release()


def test_no_function_is_replaced_longer_than_from_a_forward_to_its_loss():
    """So that nobody pickles, scripts or stores what is only there for a moment."""
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    functions = state_of_torch()[0]
    with gradbelt.fasten(net, optimizer, activations=math.inf) as belt:
        for step in range(3):
            loss = F.cross_entropy(net(torch.ones(2, 4)), torch.zeros(2, dtype=torch.long))
            assert state_of_torch()[0] == functions
            loss.backward()
            optimizer.step()
            assert belt.forward.on and state_of_torch()[0] == functions
            assert not step or belt.last.activations[-1].kind == "logits"


def test_whoever_puts_a_function_on_top_keeps_it():
    """A replacement of a replaced function is not taken away, and what it holds of ours does nothing any more."""
    mine = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x):
            if not mine:
                inner = torch.softmax
                mine.append(lambda *args, **kwargs: inner(*args, **kwargs))
                torch.softmax = mine[0]
            return torch.softmax(self.out(x), dim=-1)

    net = Net()
    real = torch.softmax
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gradbelt.fasten(net, optimizer, activations=math.inf):
        torch.ones(4, requires_grad=True).sum().backward()
        net.out.weight.grad = torch.zeros(4, 4)
        optimizer.step()
        for _ in range(2):
            net(torch.randn(2, 4)).sum().backward()
            optimizer.step()
    assert torch.softmax is mine[0]
    assert torch.softmax(torch.zeros(2), dim=0).tolist() == [0.5, 0.5]
    torch.softmax = real


def test_looking_that_fails_ends_and_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(forward, "grid", lambda value: 1 / 0)
    with pytest.warns(RuntimeWarning, match="activations are looked at no more: ZeroDivisionError"):
        _, _, rows = trained(math.inf, steps=4)
    assert len(rows) == 4 and not any(row.activations for row in rows)


def test_nothing_is_looked_at_once_anything_is_compiled():
    """A compiled model is not compiled again because of us, and no hook comes on after."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    try:
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        compiled = torch.compile(net, backend="eager")
        x = torch.randn(8, 4)
        assert steps_of(net, lambda _: compiled(x).sum().backward(), steps=8) == []
        assert counters["frames"]["total"] == 1
        assert steps_of(net, lambda _: net(x).sum().backward()) == []
    finally:
        torch._dynamo.reset()
        counters.clear()


def test_what_is_compiled_in_the_middle_of_a_sampled_step_comes_out_right():
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    try:
        net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(8, 4)
        compiled = []

        def forward_pass(belt):
            if belt.forward.on and not compiled:
                compiled.append(torch.compile(lambda x: F.softmax(net(x), dim=-1), backend="eager"))
            out = compiled[0](x) if compiled else F.softmax(net(x), dim=-1)
            assert torch.equal(out, F.softmax(net(x), dim=-1))
            out.sum().backward()

        assert steps_of(net, forward_pass, steps=4) == []
        assert compiled
    finally:
        torch._dynamo.reset()
        counters.clear()


def test_the_hooks_come_off_though_no_step_comes(monkeypatch):
    """A script that has finished training and goes on with its model is not slowed for ever."""
    monkeypatch.setattr(forward, "MOST_CALLS", 20)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gradbelt.fasten(net, optimizer, activations=math.inf) as belt:
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        for _ in range(30):
            net(torch.ones(2, 4))
        assert not belt.forward.on


@pytest.mark.parametrize(("each", "gaps"), [(0.01, {10}), (0.5, {24, 25, 26})])
def test_the_share_of_time_is_kept(monkeypatch, each, gaps):
    """By a clock of our own: a step takes a second, looking so many, and two hundredths are asked for."""
    now = [0.0]
    monkeypatch.setattr(forward.time, "perf_counter", lambda: now[0])
    looker = Forward(0.02)
    sampled = []
    for step in range(2000):
        if looker.on:
            sampled.append(step)
            looker.spent += each
        looker.end(0)
        now[0] += 1.0
        looker.begin(0)
    looker.close()
    assert sampled[0] == 1 and set(np.diff(sampled[5:]).tolist()) <= gaps
    assert each * len(sampled) <= 0.02 * now[0] + forward.LOAN + each
    assert each < 0.1 or each * len(sampled) > 0.019 * now[0]


@pytest.mark.parametrize(("step", "look"), [(3e-4, 1.2e-3), (0.002, 5e-4), (0.146, 0.0045), (1.07, 0.043)])
def test_a_short_run_pays_no_more_than_three_hundredths(monkeypatch, step, look):
    """Of its time, once it has gone on for a second, but for the first look; a small MLP's, an LSTM's, a GPT's.

    And the first steps are seen all the same: what is usual has to be known early.
    """
    now = [0.0]
    monkeypatch.setattr(forward.time, "perf_counter", lambda: now[0])
    looker, sampled = Forward(0.02), []
    for i in range(int(20.0 / step)):
        if looker.on:
            sampled.append(i)
            looker.spent += look
            now[0] += look
        looker.end(0)
        now[0] += step
        assert now[0] < 1.0 or looker.spent <= max(look, 0.03 * now[0])
        looker.begin(0)
    looker.close()
    assert sampled[:3] == [1, 2, 3] or look > 0.03 * step
    assert sampled[2] <= 5 and len(sampled) >= min(0.02 * now[0] / look, now[0] / step / 10) - 2


def test_a_gradient_that_jumps_is_looked_into_at_once(monkeypatch):
    """Not only at the next tenth step, as long as the share of time allows it."""
    now = [0.0]
    monkeypatch.setattr(forward.time, "perf_counter", lambda: now[0])
    looker = Forward(0.02)
    for _ in range(24):
        looker.end(0)
        now[0] += 1.0
        looker.begin(0)
    assert not looker.on
    looker.begin(0, eager=True)
    assert looker.on
    looker.close()


def test_a_record_read_back_judges_as_the_run_did(tmp_path):
    """Activations survive the black box and a saved belt."""
    from gradbelt.blackbox import Writer, load_run

    _, _, rows = trained(math.inf)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for row in rows:
        writer.step(row)
    writer.close()
    back = load_run(tmp_path).steps
    assert [repr(row.activations) for row in back] == [repr(row.activations) for row in rows]


def test_a_copy_of_a_model_can_be_made_in_a_sampled_step():
    net = Mixed()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gradbelt.fasten(net, optimizer, activations=math.inf):
        for _ in range(2):
            net(torch.randn(4, 8))["logits"].sum().backward()
            optimizer.step()
            copy.deepcopy(net)(torch.randn(4, 8))
    assert activations.ROWS == 64


def test_belts_that_come_and_go_in_any_order_leave_no_pile():
    """Two nets with a belt each, trained in turns, and belts that nobody releases: a function is replaced once, and is
    itself again when the last of them is gone."""
    original = F.scaled_dot_product_attention
    for _ in range(10):
        nets = [Mixed(), Mixed()]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
        belts = [gradbelt.fasten(n, o, clip=None, activations=math.inf) for n, o in zip(nets, optimizers, strict=True)]
        for _ in range(3):
            losses = [F.cross_entropy(net(torch.randn(4, 8))["logits"], torch.zeros(4).long()) for net in nets]
            for loss, optimizer in zip(losses, optimizers, strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        nets[0](torch.randn(4, 8))  # a forward whose loss never comes
        assert getattr(F.scaled_dot_product_attention, "__wrapped__", original) is original
        assert not hasattr(getattr(torch._C._nn.cross_entropy_loss, "__wrapped__", None), "__wrapped__")
    del nets, optimizers, belts, losses, loss, optimizer
    clear()
    assert F.scaled_dot_product_attention is original
