"""A step whose gradient is not finite never happened: for every optimizer that torch ships."""

import copy
import inspect
import math

import pytest
import torch

from gradbelt import fasten

STOCK = sorted(
    (kind for kind in vars(torch.optim).values() if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)),
    key=lambda kind: kind.__name__,
)
STOCK.remove(torch.optim.Optimizer)

RICH = {  # everything that keeps state or moves a weight without a gradient
    "momentum": 0.9, "weight_decay": 0.1, "amsgrad": True, "centered": True, "momentum_decay": 0.01, "lr_decay": 0.01,
    "initial_accumulator_value": 0.1, "decoupled_weight_decay": True,
}  # fmt: skip
ONLY_MAYBE = {"foreach=True": {"foreach": True}, "fused": {"fused": True}, "capturable": {"capturable": True}}


def variants(kind):
    known = inspect.signature(kind).parameters
    rich = {name: value for name, value in RICH.items() if name in known}
    yield "plain", {}
    yield "rich", rich
    if "nesterov" in known:
        yield "nesterov", {"momentum": 0.9, "nesterov": True}
    if "line_search_fn" in known:
        yield "line search", {"line_search_fn": "strong_wolfe"}
    if "foreach" in known:
        yield "foreach=False", {**rich, "foreach": False}
    for name, more in ONLY_MAYBE.items():
        if next(iter(more)) in known:
            yield name, {**rich, **more}


CASES = [
    pytest.param(kind, name, more, id=f"{kind.__name__}-{name}") for kind in STOCK for name, more in variants(kind)
]


def shapes(kind):
    return [(4, 3), (2, 5)] if kind is torch.optim.Muon else [(4, 3), (5,), (3, 2)]


class Run:
    """A few parameters, pulled by gradients that depend on nothing but the number of the step."""

    def __init__(self, kind, more, *, belted=True):
        generator = torch.Generator().manual_seed(0)
        self.params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes(kind)]
        self.optimizer = kind(self.params, **{"lr": 0.05, **more})
        self.sparse = kind is torch.optim.SparseAdam
        self.closure = kind is torch.optim.LBFGS
        self.belt = fasten(None, self.optimizer, clip=None) if belted else None
        self.evaluations = 0

    def pull(self, step, bad=None):
        generator = torch.Generator().manual_seed(100 + step)
        for p in self.params:
            noise = torch.randn(p.shape, generator=generator)
            if self.sparse:
                rows = torch.tensor([[0, p.shape[0] - 1, 0]])
                values = torch.randn(3, *p.shape[1:], generator=generator)
                noise = torch.sparse_coo_tensor(rows, values, p.shape, check_invariants=True)
            p.grad = noise if not self.closure else p.detach() - noise
        if bad is not None:
            spoilt = self.params[1].grad
            (spoilt._values() if self.sparse else spoilt).view(-1)[0] = bad

    def step(self, step, bad=None, bad_from=0):
        if not self.closure:
            self.pull(step, bad)
            self.optimizer.step()
            return
        first = self.evaluations

        def closure():
            self.pull(step, bad if self.evaluations - first >= bad_from else None)
            self.evaluations += 1
            return sum((p * p.grad).sum() for p in self.params).detach()

        self.optimizer.step(closure)

    def everything(self):
        return copy.deepcopy((list(self.params), self.optimizer.state_dict()))


def same(a, b):
    """Equal to the bit, whatever they are made of."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(("kind", "name", "more"), CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
def test_a_bad_step_never_happened(kind, name, more, bad):
    """Parameters, moments and counters are bit-identical after it, and so is the rest of the run."""
    if name in ONLY_MAYBE:
        try:
            Run(kind, more, belted=False).step(0)
        except (RuntimeError, AssertionError, ValueError) as refusal:
            pytest.skip(f"torch: {refusal}")
    run, spared = Run(kind, more), Run(kind, more, belted=False)
    for step in range(3):
        run.step(step)
        spared.step(step)
    before = run.everything()
    run.step(99, bad)
    assert same(run.everything(), before)
    assert run.belt.last.action == f"skip: {'nan' if math.isnan(bad) else 'inf'}"
    assert run.belt.last.total_after == 0.0
    assert all(p.grad is not None for p in run.params), "the gradients are the user's again"
    for step in range(3, 6):
        run.step(step)
        spared.step(step)
    assert same(run.everything(), spared.everything())


@pytest.mark.parametrize(("kind", "name", "more"), [case for case in CASES if case.values[1] not in ONLY_MAYBE])
def test_without_the_belt_it_would_have_happened(kind, name, more):
    """The test above can fail: without the belt the same step spoils every optimizer."""
    run = Run(kind, more, belted=False)
    for step in range(3):
        run.step(step)
    before = run.everything()
    try:
        run.step(99, math.nan)
    except (RuntimeError, AssertionError, IndexError):
        return
    assert not same(run.everything(), before)


@pytest.mark.parametrize("more", [{}, {"line_search_fn": "strong_wolfe"}], ids=["plain", "line search"])
@pytest.mark.parametrize("bad_from", [1, 2])
def test_a_later_evaluation_takes_the_whole_step_back(more, bad_from):
    """LBFGS that meets a nan in the middle of its search leaves no trace either, in the belt neither."""
    run, spared = Run(torch.optim.LBFGS, more), Run(torch.optim.LBFGS, more)
    for step in range(2):
        run.step(step)
        spared.step(step)
    before = run.everything()
    run.step(99, math.nan, bad_from)
    assert run.evaluations > bad_from
    assert same(run.everything(), before)
    assert run.belt.last.action == "skip: nan"
    assert run.belt.histories[0].levels == spared.belt.histories[0].levels
    assert run.belt.histories[0].refused == 1
    for step in range(2, 4):
        run.step(step)
        spared.step(step)
    assert same(run.everything(), spared.everything())
    assert run.belt.histories[0].levels == spared.belt.histories[0].levels


def test_an_optimizer_of_ones_own_that_evaluates_twice_is_taken_back():
    """SAM climbs first and measures there; a nan up there leaves the weights where they stood."""

    class Sam(torch.optim.SGD):
        def step(self, closure):
            closure()
            with torch.no_grad():
                ((p,),) = [group["params"] for group in self.param_groups]
                up = p.grad.clone()
                p += up
            closure()
            if p.grad is not None:
                with torch.no_grad():
                    p -= up
                    p -= 0.1 * p.grad
            return 0.0

    p = torch.nn.Parameter(torch.ones(3))
    optimizer = Sam([p], lr=0.1)
    grads = iter([1.0, 2.0, 1.0, math.nan, 1.0, 2.0])
    belt = fasten(None, optimizer, clip=None)

    def closure():
        p.grad = torch.full((3,), next(grads))

    optimizer.step(closure)
    before = p.detach().clone()
    optimizer.step(closure)
    assert torch.equal(p, before)
    assert belt.last.action == "skip: nan"
    optimizer.step(closure)
    torch.testing.assert_close(p.detach(), before - 0.2)


def test_without_guard_a_bad_step_happens_and_is_told():
    """`guard=False` watches: the gradient goes through, and the record says what was in it."""
    run = Run(torch.optim.SGD, {}, belted=False)
    belt = fasten(None, run.optimizer, clip=None, guard=False)
    run.step(0, math.nan)
    assert not all(torch.isfinite(p).all() for p in run.params)
    assert belt.last.action == "keep"
    assert belt.last.bad == {"parameter 1": "nan"}


def test_after_fifty_refusals_learning_starts_over():
    """A level that has moved for good is taken up again instead of being refused for ever."""
    run = Run(torch.optim.SGD, {})
    for step in range(5):
        run.step(step)
    for step in range(50):
        run.step(step, math.nan)
    assert run.belt.histories[0].accepted == 0
    run.step(6)
    assert run.belt.histories[0].accepted == 1
