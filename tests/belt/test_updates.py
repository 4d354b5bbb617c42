"""`clip.Update` is StableAdamW's rule on stock optimizers, and touches nothing but what it says."""

import copy
import math

import pytest
import torch

from gradbelt import Belt, clip, fasten
from gradbelt.errors import UsageError
from gradbelt.kernels import oracle

SHAPES = [(4, 3), (5,), (2, 2)]
WAYS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def gradient(step, shape, dtype=torch.float64):
    """Quiet, but for jumps of some tensors at some steps."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + sum(shape)), dtype=dtype)
    return drawn * (50.0 if step in (4, 9) and shape != (5,) else 3.0 if step == 7 else 1.0)


def parameters(dtype=torch.float64):
    return [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in SHAPES]


def stable_adamw(params, states, step, *, lr, betas, eps, weight_decay, limit):
    """Algorithm 2 of arXiv:2304.13013, number by number."""
    for p, state in zip(params, states, strict=True):
        g, value = oracle.numbers(p.grad), oracle.numbers(p)
        v, u = state.setdefault("v", [0.0] * len(g)), state.setdefault("u", [0.0] * len(g))
        for i, x in enumerate(g):
            v[i] = betas[0] * v[i] + (1 - betas[0]) * x
            u[i] = betas[1] * u[i] + (1 - betas[1]) * x * x
        v_hat = [x / (1 - betas[0] ** step) for x in v]
        u_hat = [x / (1 - betas[1] ** step) for x in u]
        rms = math.sqrt(sum(x * x / max(y, eps * eps) for x, y in zip(g, u_hat, strict=True)) / len(g))
        eta = lr / max(1.0, rms / limit)
        moved = [x - eta * weight_decay * x - eta * a / (math.sqrt(b) + eps)
                 for x, a, b in zip(value, v_hat, u_hat, strict=True)]  # fmt: skip
        p.data = torch.tensor(moved, dtype=p.dtype).reshape(p.shape)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [1.0, 2.0])
def test_adamw_under_the_rule_is_stable_adamw(way, limit):
    """Over twelve steps with two jumps, whatever implementation of AdamW runs."""
    ours, theirs, states = parameters(), parameters(), [{} for _ in SHAPES]
    kind = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW(ours, **kind, **WAYS[way])
    rows = []
    fasten(None, optimizer, clip.Update(limit), write=rows.append)
    for step in range(12):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = gradient(step, p.shape), gradient(step, q.shape)
        optimizer.step()
        stable_adamw(theirs, states, step + 1, limit=limit, **kind)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert {row.action for row in rows} == {"keep", "update"}
    assert next(row.step for row in rows if row.action == "update") == (1 if limit == 1.0 else 4)
    assert all(row.total == row.total_after for row in rows)


def step_with_lower_rates(optimizer, limit):
    """A step in which each parameter's rate is lowered by what a rehearsal on a copy shows of its second moment."""
    rehearsal = copy.deepcopy(optimizer)
    for mine, its in zip(optimizer.param_groups, rehearsal.param_groups, strict=True):
        for p, q in zip(mine["params"], its["params"], strict=True):
            q.grad = p.grad.clone()
            if mine.get("weight_decay") and not mine.get("decoupled_weight_decay"):
                sign = -1.0 if mine.get("maximize") else 1.0
                q.effective = p.grad + sign * mine["weight_decay"] * p.detach()
            else:
                q.effective = p.grad
    rehearsal.step()
    split = []
    for mine, its in zip(optimizer.param_groups, rehearsal.param_groups, strict=True):
        for p, q in zip(mine["params"], its["params"], strict=True):
            state = rehearsal.state[q]
            v = oracle.numbers(state.get("max_exp_avg_sq", state["exp_avg_sq"]))
            without_bias = 1 - mine["betas"][1] ** float(state["step"])
            g = oracle.numbers(q.effective)
            u = [x / max(math.sqrt(y / without_bias), mine["eps"]) for x, y in zip(g, v, strict=True)]
            rms = math.hypot(*u) / math.sqrt(len(u))
            split.append({**mine, "params": [p], "lr": mine["lr"] / max(1.0, rms / limit)})
    groups, optimizer.param_groups = optimizer.param_groups, split
    optimizer.step()
    optimizer.param_groups = groups


VARIANTS = {
    "adam": (torch.optim.Adam, {}),
    "adam amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adam decay": (torch.optim.Adam, {"weight_decay": 2.0}),
    "adam decay maximize": (torch.optim.Adam, {"weight_decay": 2.0, "maximize": True}),
    "adam fused amsgrad": (torch.optim.Adam, {"fused": True, "amsgrad": True}),
    "adam tensor lr": (torch.optim.Adam, {"lr": torch.tensor(0.1, dtype=torch.float64), "foreach": False}),
    "adam fused tensor lr": (torch.optim.Adam, {"lr": torch.tensor(0.1), "fused": True}),
    "adamw maximize": (torch.optim.AdamW, {"maximize": True, "weight_decay": 2.0}),
    "nadam": (torch.optim.NAdam, {"weight_decay": 2.0}),
    "nadam decoupled": (torch.optim.NAdam, {"weight_decay": 0.5, "decoupled_weight_decay": True}),
    "radam": (torch.optim.RAdam, {"foreach": True}),
}


def compare(ours, theirs, optimizer, bare, grads, limit=1.0, steps=12, scheduler=lambda optimizer: None):
    rows = []
    fasten(None, optimizer, clip.Update(limit), write=rows.append)
    schedules = [scheduler(optimizer), scheduler(bare)]
    for step in range(steps):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = grads(step, p), grads(step, q)
        groups = list(optimizer.param_groups)
        rates = [group["lr"] for group in groups]
        optimizer.step()
        step_with_lower_rates(bare, limit)
        assert all(a is b for a, b in zip(optimizer.param_groups, groups, strict=True))
        assert all(group["lr"] is rate for group, rate in zip(groups, rates, strict=True))
        for schedule in filter(None, schedules):
            schedule.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-8)
    assert {row.action for row in rows} == {"keep", "update"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_adam_is_slowed_by_its_own_second_moment(variant):
    kind, more = VARIANTS[variant]
    ours, theirs = parameters(), parameters()
    make = {"lr": 0.1, **more}
    compare(ours, theirs, kind(ours, **make), kind(theirs, **make), lambda step, p: gradient(step, p.shape), limit=1.5)


def test_complex_parameters_have_two_moments_a_number():
    ours, theirs = parameters(torch.complex128), parameters(torch.complex128)
    compare(ours, theirs, torch.optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1),
            lambda step, p: gradient(step, p.shape, torch.complex128), limit=1.5)  # fmt: skip


def test_a_scheduler_sets_the_rate_that_is_lowered():
    ours, theirs = parameters(), parameters()
    compare(ours, theirs, torch.optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1),
            lambda step, p: gradient(step, p.shape), limit=1.5,
            scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8))  # fmt: skip


def test_a_sparse_embedding_is_slowed_by_the_rows_that_it_saw():
    p = torch.nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))
    optimizer = torch.optim.SparseAdam([p], lr=1.0, betas=(0.0, 0.99))
    belt = fasten(None, optimizer, clip.Update(1.0))
    for step in range(4):
        before = p.detach().clone()
        values = torch.tensor([[3.0, 1.0], [3.0, 1.0]], dtype=torch.float64) * (5.0 if step == 3 else 0.5)
        p.grad = torch.sparse_coo_tensor([[1, 1 + (step == 3)]], values, (6, 2), check_invariants=True)
        optimizer.step()
    assert belt.last.action == "update"
    moved = (p.detach() - before)[1:3]
    v = torch.tensor([[9.0, 1.0], [0.0, 0.0]], dtype=torch.float64) * (1 - 0.99**3)
    v = (0.99 * v + 0.01 * values**2) / (1 - 0.99**4)
    update = values / v.sqrt()
    torch.testing.assert_close(moved, -update / update.square().mean().sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_where_nothing_is_slowed_a_run_is_bit_identical_to_one_without_a_belt(kind, way):
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    optimizer, bare = kind(ours, lr=0.1, **WAYS[way]), kind(theirs, lr=0.1, **WAYS[way])
    belt = fasten(None, optimizer, clip.Update(100.0))
    for step in range(12):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = gradient(step, p.shape, torch.float32), gradient(step, q.shape, torch.float32)
        optimizer.step()
        bare.step()
        assert belt.last.action == "keep"
    assert all(map(torch.equal, ours, theirs))
    assert str(optimizer.state_dict()) == str(bare.state_dict())


def jumped(limit=1.0, rule=None, **more):
    """An Adam whose next step holds a jump, in parameters of two groups."""
    params = parameters(torch.float32)
    optimizer = torch.optim.Adam([{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.2}], **more)
    belt = fasten(None, optimizer, rule or clip.Update(limit))
    for step in range(5):
        for p in params:
            p.grad = gradient(step, p.shape, torch.float32)
        if step < 4:
            optimizer.step()
    return belt, optimizer, params


def test_a_step_that_raises_leaves_the_groups_as_they_were():
    _, optimizer, params = jumped()
    groups, listed = list(optimizer.param_groups), [list(group["params"]) for group in optimizer.param_groups]
    optimizer.state[params[2]]["exp_avg"] = torch.zeros(77)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert all(a is b for a, b in zip(optimizer.param_groups, groups, strict=True))
    for group, params_, lr in zip(groups, listed, (0.1, 0.2), strict=True):
        assert all(a is b for a, b in zip(group["params"], params_, strict=True))
        assert group["lr"] == lr


def test_a_closure_is_slowed_by_the_gradient_that_it_leaves():
    by_hand, in_closure = jumped(), jumped()
    by_hand[1].step()
    grads = [p.grad for p in in_closure[2]]
    in_closure[1].zero_grad()

    def closure():
        for p, g in zip(in_closure[2], grads, strict=True):
            p.grad = g
        return torch.zeros(())

    in_closure[1].step(closure)
    assert in_closure[0].last.action == by_hand[0].last.action == "update"
    assert all(map(torch.equal, by_hand[2], in_closure[2]))


def test_under_a_loss_scale_the_update_is_of_unscaled_gradients():
    """A GradScaler leaves the gradients of a fused optimizer scaled."""
    plain, scaled = jumped(fused=True), jumped(fused=True)
    for p in scaled[2]:
        p.grad *= 1024.0
    scaled[1].grad_scale, scaled[1].found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    for _, optimizer, _ in (plain, scaled):
        optimizer.step()
    assert scaled[0].last.action == "update"
    for p, q in zip(plain[2], scaled[2], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("fused", [False, True])
def test_in_a_chain_it_goes_by_what_the_others_left_wherever_it_stands(fused):
    first, last = (
        jumped(rule=clip.from_string(text), fused=fused) for text in ("update:0.5+norm:3", "norm:3+update:0.5")
    )
    lower, _, _ = runs = jumped(rule=clip.from_string("update:2+norm:3+update:0.5"), fused=fused)
    for _, optimizer, _ in (first, last, runs):
        optimizer.step()
    for belt, _, params in (last, runs):
        for p, q in zip(first[2], params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(p.grad, q.grad)
        assert belt.last.action == first[0].last.action == "update"
        assert belt.last.total_after == pytest.approx(3.0, rel=1e-6)
    assert lower.last.total > 30.0


def test_a_parameter_in_two_groups_is_slowed_in_both():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([p], lr=1e-3, betas=(0.0, 0.99))
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [p]})
    fasten(None, optimizer, clip.Update(1e-3))
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == pytest.approx([1.0 - 2e-6] * 3, abs=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_step_is_left_out_and_the_next_is_as_if_it_had_not_been(bad):
    struck, spared = jumped(), jumped()
    grads = [p.grad for p in struck[2]]
    for p in struck[2]:
        p.grad = torch.full_like(p, bad)
    struck[1].step()
    assert struck[0].last.action == f"skip: {bad}"
    for p, g in zip(struck[2], grads, strict=True):
        p.grad = g
    for _, optimizer, _ in (struck, spared):
        optimizer.step()
    assert struck[0].last.action == "update"
    assert all(map(torch.equal, struck[2], spared[2]))


@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "Adamax", "Adagrad", "LBFGS", "Adafactor"])
def test_an_optimizer_without_second_moments_is_refused_when_it_is_fastened(kind):
    optimizer = getattr(torch.optim, kind)(parameters())
    with pytest.raises(UsageError, match=rf"{kind} has none.*AdamW.*clip\.Norm"):
        fasten(None, optimizer, "norm:1+update:1")

    class Own(torch.optim.AdamW):
        def step(self, closure=None):
            return super().step(closure)

    with pytest.raises(UsageError, match="Own"):
        fasten(None, Own(parameters()), "update")


def test_a_loop_without_an_optimizer_is_refused_at_its_step():
    p = parameters()[0]
    p.grad = torch.ones_like(p)
    with pytest.raises(UsageError, match="a loop without an optimizer"):
        Belt(clip="update").manual_step([p])


def test_a_subclass_that_steps_as_adam_does_is_slowed():
    class Named(torch.optim.AdamW):
        pass

    params = parameters()
    assert fasten(None, Named(params), "update").rules == [clip.Update(1.0)]


def test_amsgrad_divides_by_the_largest_moment_yet_and_so_is_not_slowed():
    """A jump that was larger long ago: Adam has forgotten it, amsgrad has not."""
    found = {}
    for amsgrad in (False, True):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([p], lr=0.1, betas=(0.9, 0.9), amsgrad=amsgrad)
        belt = fasten(None, optimizer, clip.Update(1.5))
        for size in (100.0, *[0.01] * 80, 1.0):
            p.grad = torch.full((3,), size)
            optimizer.step()
        found[amsgrad] = belt.last.action
    assert found == {False: "update", True: "keep"}
