"""What the belt does to gradients is what it says, and nothing else."""

import copy
import math

import pytest
import torch

from gradbelt import Belt, clip, fasten

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01),
    "fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
}


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).to(dtype)


def batch(step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, (3 * x[:, :1] + torch.randn(8, 1, generator=generator, dtype=torch.float64).to(dtype))


def train(model, optimizer, steps=30, *, before=lambda model: None, closure=False):
    losses = []
    for step in range(steps):
        x, y = batch(step, next(model.parameters()).dtype)

        def evaluate(x=x, y=y):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            before(model)
            return loss

        if closure:
            losses.append(optimizer.step(evaluate).item())
        else:
            losses.append(evaluate().item())
            optimizer.step()
    return losses


def identical(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("max_norm", [0.5, 5.0])
def test_clipping_is_torchs_to_rounding(name, max_norm):
    """`clip=1.0` trains as `torch.nn.utils.clip_grad_norm_(parameters, 1.0)` before each step does."""
    ours, theirs = net(), net()
    optimizer = OPTIMIZERS[name](ours.parameters())
    rows = []
    fasten(ours, optimizer, clip=max_norm, write=rows.append)
    train(ours, optimizer)
    train(
        theirs,
        OPTIMIZERS[name](theirs.parameters()),
        before=lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm),
    )
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-4, atol=2e-5)  # torch divides by total + 1e-6
    assert any(row.action == "scale" for row in rows)


def test_clipping_by_value_is_torchs_to_the_bit():
    """`clip="value:0.1"` trains as `clip_grad_value_(parameters, 0.1)` before each step does."""
    ours, theirs = net(), net()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    belt = fasten(ours, optimizer, clip="value:0.1")
    train(ours, optimizer)
    train(
        theirs,
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9),
        before=lambda model: torch.nn.utils.clip_grad_value_(model.parameters(), 0.1),
    )
    assert identical(ours, theirs)
    assert belt.last.action == "clamp"
    assert belt.last.total_after < belt.last.total


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rule", [1e9, "value:1e9", None])
def test_what_need_not_be_clipped_is_not_touched(name, rule):
    """A run that never reaches the threshold is bit-identical to one without a belt, guarded or not."""
    ours, theirs = net(), net()
    optimizer = OPTIMIZERS[name](ours.parameters())
    belt = fasten(ours, optimizer, clip=rule)
    assert train(ours, optimizer) == train(theirs, OPTIMIZERS[name](theirs.parameters()))
    assert identical(ours, theirs)
    assert belt.last.action == "keep"
    assert belt.last.total == belt.last.total_after


@pytest.mark.parametrize(
    ("kind", "more", "closure"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, False),
        (torch.optim.Adam, {"lr": 0.01}, True),
        (torch.optim.LBFGS, {"lr": 0.1}, True),
        (torch.optim.LBFGS, {"lr": 1.0, "line_search_fn": "strong_wolfe"}, True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_belt_that_only_watches_changes_nothing(kind, more, closure, dtype):
    """With no rule and no guard, parameters, state and losses are bit-identical to a bare loop."""
    ours, theirs = net(dtype), net(dtype)
    optimizer, bare = kind(ours.parameters(), **more), kind(theirs.parameters(), **more)
    belt = fasten(ours, optimizer, clip=None, guard=False)
    assert train(ours, optimizer, 12, closure=closure) == train(theirs, bare, 12, closure=closure)
    assert identical(ours, theirs)
    assert str(optimizer.state_dict()["state"]) == str(bare.state_dict()["state"])
    assert belt.calls == 12


def test_a_guard_alone_changes_nothing_in_a_good_run_of_lbfgs():
    """The copy that the guard keeps is only ever put back after a bad evaluation."""
    ours, theirs = net(), net()
    optimizer = torch.optim.LBFGS(ours.parameters(), lr=0.1)
    fasten(ours, optimizer, clip=None)
    bare = torch.optim.LBFGS(theirs.parameters(), lr=0.1)
    assert train(ours, optimizer, 8, closure=True) == train(theirs, bare, 8, closure=True)
    assert identical(ours, theirs)


def test_a_closure_that_runs_once_is_measured_after_it_ran():
    """Backward inside the step: what is clipped is this step's gradient, not the one before."""
    ours, theirs = net(), net()
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    rows = []
    fasten(ours, optimizer, clip=0.5, write=rows.append)
    train(ours, optimizer, closure=True)
    totals = []
    train(
        theirs,
        torch.optim.Adam(theirs.parameters(), lr=0.01),
        before=lambda model: totals.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))),
    )
    assert [row.total for row in rows] == pytest.approx(totals, rel=1e-3)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_accumulated_gradients_are_clipped_once_as_a_whole():
    """Four backward passes and one step: the norm is the sum's, and it counts as one step."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    belt = fasten(model, optimizer, clip=1e9)
    for step in range(3):
        optimizer.zero_grad()
        for part in range(4):
            x, y = batch(10 * step + part)
            belt.see((model(x) - y).square().mean() / 4).backward()
        whole = math.hypot(*(float(p.grad.norm()) for p in model.parameters()))
        optimizer.step()
        assert belt.last.total == pytest.approx(whole, rel=1e-6)
    assert belt.calls == 3
    assert belt.last.step == 2


def test_two_rules_act_one_after_the_other():
    """A rule added later sees what the first one left."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    belt = fasten(None, optimizer, clip="value:1.0")
    belt.rules.append(clip.Norm(0.5))
    p.grad = torch.tensor([3.0, 0.1])
    optimizer.step()
    torch.testing.assert_close(p.detach().norm(), torch.tensor(0.5))
    torch.testing.assert_close(p.detach()[1] / p.detach()[0], torch.tensor(0.1))


def test_mixed_dtypes_and_kinds_of_gradient_count_into_one_norm():
    """fp16, bf16, float64, complex, sparse and empty parameters beside one without a gradient: one norm, one factor."""
    made = {
        torch.float16: [3.0], torch.bfloat16: [4.0], torch.float64: [12.0], torch.complex64: [84j], torch.float32: [],
    }  # fmt: skip
    params = [torch.nn.Parameter(torch.zeros(len(values), dtype=dtype)) for dtype, values in made.items()]
    for p, values in zip(params, made.values(), strict=True):
        p.grad = torch.tensor(values, dtype=p.dtype)
    rows = torch.nn.Parameter(torch.zeros(4, 2))
    rows.grad = torch.sparse_coo_tensor([[1, 1]], [[100.0, 0.0], [32.0, 0.0]], (4, 2), check_invariants=True)
    unused = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([*params, rows, unused], lr=1.0)
    belt = fasten(None, optimizer, clip=1.0)
    optimizer.step()
    total = math.hypot(3, 4, 12, 84, 132)
    assert belt.last.total == pytest.approx(total)
    assert belt.last.total_after == pytest.approx(1.0)
    assert len(belt.last.norm) == 6
    assert unused.tolist() == [1.0, 1.0]
    for p, value in zip((*params[:4], rows[1, :1]), (3.0, 4.0, 12.0, 84j, 132.0), strict=True):
        assert complex(p.detach().item()) == pytest.approx(-value / total, rel=5e-3)


def test_a_sparse_embedding_trains_under_the_belt():
    """`nn.Embedding(sparse=True)`, which torch's own clipping refuses, is clipped and counted."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    belt = fasten(table, optimizer, clip=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([1, 1, 2])).square().sum().backward()
        optimizer.step()
    assert belt.last.names == ("weight",)
    assert belt.last.total_after == pytest.approx(0.1)


@pytest.mark.parametrize("grads", [False, True], ids=["no gradients", "no parameters"])
def test_nothing_to_step_is_calm(grads):
    """A step without gradients, or over an empty parameter, is a step with norm 0."""
    p = torch.nn.Parameter(torch.ones(0 if grads else 3))
    if grads:
        p.grad = torch.zeros(0)
    found = []
    optimizer = torch.optim.Adam([p])
    belt = fasten(None, optimizer, clip="auto", tell=found.append)
    for _ in range(25):
        optimizer.step()
    assert belt.last.total == 0.0
    assert belt.last.action == "keep"
    assert not found


def test_a_learning_rate_that_is_a_tensor_is_recorded_and_left_alone():
    """`lr=torch.tensor(...)`, as capturable optimizers want it."""
    p = torch.nn.Parameter(torch.ones(3))
    lr = torch.tensor(0.25)
    optimizer = torch.optim.Adam([p], lr=lr, foreach=False)
    belt = fasten(None, optimizer)
    p.grad = torch.ones(3)
    optimizer.step()
    assert belt.last.lr == 0.25
    assert optimizer.param_groups[0]["lr"] is lr


def test_a_parameter_counts_once_however_many_groups_hold_it():
    """A tied weight in two groups, which torch only warns about, enters the norm once."""
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [p]})
    belt = fasten(None, optimizer, clip=None)
    p.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert belt.last.total == pytest.approx(5.0)
    assert len(belt.last.names) == 1


def test_several_optimizers_keep_their_own_steps_and_histories():
    """A GAN's two optimizers share step numbers; a parameter that both move is clipped for each."""
    a, b, shared = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    first, second = torch.optim.SGD([a, shared], lr=0.1), torch.optim.SGD([b, shared], lr=0.1)
    rows = []
    belt = fasten(None, [first, second], clip=1.0, write=rows.append)
    for _ in range(4):
        for optimizer, p, size in ((first, a, 3.0), (second, b, 0.3)):
            p.grad, shared.grad = torch.full((2,), size), torch.full((2,), size)
            optimizer.step()
    assert [(row.call, row.step, row.optimizer) for row in rows] == [(i, i // 2, i % 2) for i in range(8)]
    assert belt.histories[0].median == pytest.approx(1.0)
    assert belt.histories[1].median == pytest.approx(0.6)
    assert [row.weight is not None for row in rows] == [True] * 8


def test_every_optimizers_weights_are_sampled_every_tenth_step():
    """Also where two step by turns."""
    ps = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizers = [torch.optim.SGD([p], lr=0.0) for p in ps]
    rows = []
    fasten(None, optimizers, clip=None, write=rows.append)
    for _ in range(31):
        for p, optimizer in zip(ps, optimizers, strict=True):
            p.grad = torch.ones(2)
            optimizer.step()
    for which in (0, 1):
        sampled = [row.step for row in rows if row.optimizer == which and row.weight is not None]
        assert sampled == [*range(10), 10, 20, 30]


def test_an_optimizer_that_is_gone_keeps_its_number():
    """A third optimizer never takes up the history of another, also when the first was deleted before it came."""
    belt = Belt(clip=None)
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    first, second = torch.optim.SGD([p], lr=0.1), torch.optim.SGD([p], lr=0.1)
    belt.hold(first)
    belt.hold(second)
    first.step()
    second.step()
    del first
    others = [torch.optim.SGD([p], lr=0.1) for _ in range(2)]
    for number, optimizer in enumerate(others, 2):
        belt.hold(optimizer)
        optimizer.step()
        assert belt.last.optimizer == number


def test_a_copied_optimizer_is_not_held():
    """`copy.deepcopy(optimizer)` copies no belt; the copy steps freely."""
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=0.1)
    belt = fasten(None, optimizer)
    twin = copy.deepcopy(optimizer)
    twin.param_groups[0]["params"][0].grad = torch.ones(1)
    twin.step()
    assert belt.calls == 0
