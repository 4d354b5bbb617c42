"""The buckle check: what is put on wrongly is said once, and a belt that sits right hears nothing."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import warnings

import pytest
import torch

from gradbelt import clip_grad_norm_, clip_grad_value_, fasten
from gradbelt._told import say
from gradbelt._types import MISFITS
from gradbelt.belt.buckle import is_clipped
from gradbelt.belt.misfits import SENTENCES, misfit
from gradbelt.errors import BuckleWarning


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def batch(step):
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
    return x, 5 * x[:, :1] + x[:, 1:2].square()


class Loop:
    """A training loop with a place to put things wrongly; `kinds` is what the buckle check said of it."""

    def __init__(self, *, clip=None, steps=12, accumulate=1, lr=0.01, where=None, sgd=True, model=None, **belt):
        self.model = net() if model is None else model
        make = torch.optim.SGD if sgd else torch.optim.AdamW
        self.optimizer = make(list(self.model.parameters()), lr=lr)
        self.where = dict(where or {})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", BuckleWarning)
            with fasten(self.model, self.optimizer, clip=clip, **belt) as self.belt:
                for step in range(steps):
                    for part in range(accumulate):
                        self.at("start", lambda: self.optimizer.zero_grad()) if part == 0 else None
                        x, y = batch(step * accumulate + part)
                        loss = (self.model(x) - y).square().mean() / accumulate
                        self.at("before backward", None)
                        loss.backward()
                    self.at("after backward", None)
                    self.optimizer.step()
                    self.at("after step", None)
        self.warnings = [w for w in caught if w.category is BuckleWarning]
        self.kinds = [found.kind for found in self.belt.buckle.found]

    def at(self, place, otherwise):
        act = self.where.get(place, otherwise)
        if act is not None:
            act(self) if place in self.where else act()


def clip_now(loop):
    torch.nn.utils.clip_grad_norm_(loop.model.parameters(), 0.5)


def clamp_now(loop):
    torch.nn.utils.clip_grad_value_(loop.model.parameters(), 0.05)


def nothing(loop):
    pass


def in_place(loop):
    loop.optimizer.zero_grad(set_to_none=False)


def by_data(loop):
    for parameter in loop.model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


HEALTHY = {
    "zero_grad at the start": {},
    "zeroed in place": {"where": {"start": in_place}},
    "zeroed in place after the step": {"where": {"start": nothing, "after step": in_place}},
    "zeroed through .data": {"where": {"start": by_data}},
    "zero_grad just before backward": {
        "where": {"start": nothing, "before backward": lambda loop: loop.optimizer.zero_grad()}
    },
    "zero_grad after the step": {"where": {"start": nothing, "after step": lambda loop: loop.optimizer.zero_grad()}},
    "model.zero_grad": {"where": {"start": lambda loop: loop.model.zero_grad()}},
    "gradient accumulation": {"accumulate": 3},
    "accumulation, zeroed in place": {"accumulate": 3, "where": {"start": in_place}},
    "clipped by the script": {"where": {"after backward": clip_now}},
    "norms looked at after the step": {
        "where": {"after step": lambda loop: torch.nn.utils.clip_grad_norm_(loop.model.parameters(), math.inf)}
    },
    "AdamW": {"sgd": False},
    "clipped by the belt": {"clip": 1.0, "steps": 60},
    "auto": {"clip": "auto", "steps": 120, "sgd": False},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_belt_that_sits_right_hears_nothing(name):
    assert Loop(**HEALTHY[name]).kinds == []


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_gradient_that_shrinks_along_itself_was_not_clipped(set_to_none):
    """Descent on a round bowl: every gradient is a multiple of the one before, also in the very same tensor."""
    point = torch.nn.Parameter(torch.tensor([3.0, -4.0, 0.5]))
    optimizer = torch.optim.SGD([point], lr=0.1)
    belt = fasten(None, optimizer, clip=None)
    for _ in range(12):
        optimizer.zero_grad(set_to_none=set_to_none)
        point.square().sum().backward()
        optimizer.step()
    assert belt.buckle.found == []


@pytest.mark.parametrize("cut", [clip_now, clamp_now])
@pytest.mark.parametrize("sgd", [True, False])
def test_clipping_after_the_step_is_found(cut, sgd):
    """Whatever function does it: the gradient that the step used is smaller at the next one."""
    assert Loop(where={"after step": cut}, sgd=sgd).kinds == ["clip_after_step"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_that_are_never_zeroed_are_found(accumulate):
    assert Loop(where={"start": nothing}, accumulate=accumulate, lr=1e-4).kinds == ["never_zeroed"]


def test_a_discriminator_that_a_generators_backward_adds_to_is_no_stale_gradient():
    """Its gradients are there when the generator's backward comes, and are zeroed before its own."""
    torch.manual_seed(0)
    generator, judge = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (judge, generator)]
    belt = fasten(torch.nn.ModuleList([generator, judge]), optimizers, clip=1.0)
    for _ in range(20):
        fake = generator(torch.randn(8, 3))
        optimizers[0].zero_grad()
        judge(fake.detach()).square().mean().backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        judge(fake).mean().backward()
        optimizers[1].step()
    assert belt.buckle.found == []


def test_it_is_said_once_at_the_users_line():
    loop = Loop(where={"after step": clip_now}, steps=30)
    assert len(loop.warnings) == 1
    assert loop.warnings[0].filename == __file__
    assert "clip between backward() and step()" in str(loop.warnings[0].message)


def test_a_warning_turned_into_an_error_reaches_the_user():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    fasten(model, optimizer, clip=None)

    def train():
        for step in range(10):
            x, y = batch(step)
            (model(x) - y).square().mean().backward()  # never zeroed
            optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("error", BuckleWarning)
        with pytest.raises(BuckleWarning, match="zero_grad"):
            train()


@pytest.mark.parametrize("where", [{}, {"start": in_place}, {"after step": clip_now}, {"start": nothing}])
def test_the_check_changes_not_a_bit_and_keeps_nothing(where, monkeypatch):
    """With it and without it the parameters end up the same; afterwards no hook and no tensor is left."""
    import gradbelt.belt.fasten as module

    ours = Loop(where=where, steps=40, lr=1e-3)
    assert not any(p._backward_hooks for p in ours.model.parameters())
    assert ours.belt.buckle.done
    assert not ours.belt.buckle._followed
    monkeypatch.setattr(module, "Buckle", lambda **_: None)
    with pytest.raises(AttributeError):
        Loop(where=where, steps=0)  # no check is on
    bare = net()
    optimizer = torch.optim.SGD(list(bare.parameters()), lr=1e-3)
    theirs = type("Bare", (), {"model": bare, "optimizer": optimizer})
    for step in range(40):
        where.get("start", lambda loop: loop.optimizer.zero_grad())(theirs)
        x, y = batch(step)
        (bare(x) - y).square().mean().backward()
        optimizer.step()
        where.get("after step", nothing)(theirs)
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), bare.parameters(), strict=True))


def test_a_fault_of_ours_ends_the_check_and_not_the_run(monkeypatch):
    import gradbelt.belt.buckle as module

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "is_clipped", broken)
    loop = Loop(clip=1.0)
    assert loop.belt.buckle.done
    assert loop.kinds == []
    assert loop.belt.calls == 12


def test_hooks_are_gone_after_the_first_steps():
    loop = Loop(steps=8)
    model = loop.model
    belt = fasten(model, loop.optimizer)
    for step in range(8):
        loop.optimizer.zero_grad()
        x, y = batch(step)
        (model(x) - y).square().mean().backward()
        loop.optimizer.step()
    assert not belt.buckle.done
    assert not any(p._backward_hooks for p in model.parameters())


def test_parameters_that_no_optimizer_holds_are_named():
    model = torch.nn.Sequential(net(), torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.01)
    fasten(model, optimizer, clip=None)

    def train():
        for step in range(12):
            model.zero_grad()
            x, y = batch(step)
            (model(x) - y).square().mean().backward()
            optimizer.step()

    with pytest.warns(BuckleWarning, match=r"\(2, first 1\.weight\)"):
        train()


@pytest.mark.parametrize("how", ["frozen", "without gradient", "moved by hand", "moved through .data"])
def test_parameters_that_are_meant_to_stand_apart_are_not(how):
    model = torch.nn.Sequential(net(), torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.01)
    if how == "frozen":
        model[1].requires_grad_(False)
    belt = fasten(model, optimizer, clip=None)
    for step in range(12):
        model.zero_grad()
        x, y = batch(step)
        out = model[0](x) if how == "without gradient" else model(x)
        (out - y).square().mean().backward()
        optimizer.step()
        if how == "moved by hand":
            with torch.no_grad():
                for parameter in model[1].parameters():
                    parameter -= 0.01 * parameter.grad
        if how == "moved through .data":
            for parameter in model[1].parameters():
                parameter.data.sub_(parameter.grad.data, alpha=0.01)
    assert belt.buckle.found == []


def test_an_optimizer_inside_the_backward_pass_is_found_where_the_total_norm_is_clipped():
    model = net()
    optimizers = {p: torch.optim.SGD([p], lr=0.01) for p in model.parameters()}

    def now(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(now)

    def train(clip):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BuckleWarning)
            with fasten(model, optimizers.values(), clip=clip) as belt:
                for step in range(5):
                    x, y = batch(step)
                    (model(x) - y).square().mean().backward()
        return [found.kind for found in belt.buckle.found]

    assert train(0.1) == ["step_in_backward"]
    assert train(None) == train("each:0.1") == []


@pytest.mark.parametrize("function", [clip_grad_norm_, clip_grad_value_])
def test_gradients_given_in_place_of_parameters_are_told(function):
    model = net()
    x, y = batch(0)
    (model(x) - y).square().mean().backward()
    with pytest.warns(BuckleWarning, match="pass the parameters, not their gradients"):
        function([p.grad for p in model.parameters()], 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(model.parameters(), 1.0)
        function(list(model.requires_grad_(False).parameters()), 1.0)
        model.zero_grad()
        function(list(model.parameters()), 1.0)
        function([], 1.0)


@pytest.mark.parametrize("clip", [0.1, 2.0, "auto"])
def test_a_script_that_clips_before_the_belt_does_is_told(clip):
    """Whatever of the two is tighter: its gradients arrive with the same norm again and again, and different parts."""
    kinds = Loop(clip=clip, where={"after backward": clip_now}, steps=40).kinds
    assert kinds == ["double_clip"]


def test_a_gradient_that_is_always_the_same_was_not_clipped():
    """A loss linear in the weights has a constant gradient: its norm repeats, and so does each part of it."""
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    belt = fasten(model, optimizer, clip=100.0)
    for _ in range(40):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    assert belt.buckle.found == []


def test_a_threshold_that_always_or_never_acts_is_told_as_information():
    tight, loose, fitting = (Loop(clip=clip, steps=220) for clip in (1e-3, 1e4, 20.0))
    assert tight.kinds == ["clip_always_acts"]
    assert loose.kinds == ["clip_never_acts"]
    assert fitting.kinds == []
    assert all("for information" in str(w.message) for w in tight.warnings + loose.warnings)


def test_every_kind_has_a_sentence_in_both_languages():
    assert tuple(SENTENCES) == MISFITS
    for kind, sentence in SENTENCES.items():
        names = {"function", "scale", "limit", "count", "name", "here", "rank", "there", "other", "norm", "steps"}
        names |= {"largest", "before", "early", "now", "late", "shown"}
        message = misfit(kind, 0, **dict.fromkeys(names, "7")).message
        assert "{" not in message
        assert say(message, "ja") != message, sentence


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_a_shrunk_gradient_is_known_in_every_dtype(dtype):
    """And one of another batch is not taken for it."""
    before, other = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert is_clipped(before, before * 0.3)
    assert not is_clipped(before, other)
    assert not is_clipped(before, before * 1.5)
    assert not is_clipped(before, -before * 0.5)
    assert not is_clipped(before, torch.zeros_like(before))


# ------------------------------------------------------------------------------------------------------------- ranks


def rank_trains(rank, world, path, how, out):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    torch.manual_seed(rank if how == "own seeds" else 0)
    model = torch.nn.Linear(6, 1)
    if how == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BuckleWarning)
        belt = fasten(model, [] if how == "no word" and rank else optimizer, clip=1.0)
        for step in range(8):
            optimizer.zero_grad()
            x, y = batch(100 * rank + step)
            (model(x) - y).square().mean().backward()
            optimizer.step()
            if step == 1:
                dist.barrier()  # the test's own: every rank has left its word by now
    with open(f"{out}.{rank}", "w") as file:
        json.dump([(found.kind, found.message) for found in belt.buckle.found], file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # a thread of gloo's that still runs would abort an orderly end, now and then


@pytest.mark.parametrize(
    "how", ["not averaged", *(pytest.param(how, marks=pytest.mark.slow) for how in ("ddp", "own seeds", "no word"))]
)
def test_replicas_whose_gradients_are_not_averaged_are_told(how, tmp_path):
    """By rank 0 alone. Averaged ones agree, ranks with weights of their own are no replicas, and nobody waits for a
    word that a rank does not leave."""
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=rank_trains, args=(rank, 2, tmp_path / "store", how, tmp_path / "found"))
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
        assert rank.exitcode == 0
    first, second = (json.loads((tmp_path / f"found.{rank}").read_text()) for rank in range(2))
    assert [kind for kind, _ in first] == (["ranks_disagree"] if how == "not averaged" else [])
    assert second == []
