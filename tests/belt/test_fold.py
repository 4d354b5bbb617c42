"""Clipping inside a fused optimizer's kernel is clipping before it, and leaves nothing behind."""

import copy
import inspect
import math

import pytest
import torch

from gradbelt import fasten, kernels

FUSED = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and "fused" in inspect.signature(kind).parameters
}
OPTIONS = {
    "plain": {}, "weight decay": {"weight_decay": 0.1}, "maximize": {"maximize": True}, "amsgrad": {"amsgrad": True},
    "momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}, "lr_decay": {"lr_decay": 0.1},
    "tensor lr": {"lr": torch.tensor(0.05)},
}  # fmt: skip
CASES = [
    pytest.param(kind, more, id=f"{name}-{option}")
    for name, kind in FUSED.items()
    for option, more in OPTIONS.items()
    if set(more) <= set(inspect.signature(kind).parameters)
]
SHAPES = [(4, 3), (5,), (3, 2)]
SCALE = 2.0**10


def drawn(step, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * step + sum(shape))) * 3.0**step


class Run:
    """Three parameters under a fused optimizer, pulled by gradients that depend on the number of the step alone."""

    def __init__(self, kind, more, clip=None, *, scaled=False, groups=None, belted=True):
        self.params = [torch.nn.Parameter(drawn(0, shape)) for shape in SHAPES]
        self.optimizer = kind(groups(self.params) if groups else self.params, **{"lr": 0.05, "fused": True, **more})
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=scaled)
        self.rows = []
        if belted:
            self.belt = fasten(None, self.optimizer, clip=clip, write=self.rows.append)

    def step(self, i, scale_by=1.0):
        for p in self.params:
            p.grad = drawn(i, p.shape)
        for p in self.params:
            p.grad *= self.scaler.get_scale() * scale_by
        self.scaler.scale(torch.ones(()))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def close_to(self, other):
        for p, q in zip(self.params, other.params, strict=True):
            torch.testing.assert_close(p, q, rtol=3e-6, atol=1e-7)
            torch.testing.assert_close(p.grad, q.grad, rtol=3e-6, atol=1e-9)
            for name, value in self.optimizer.state[p].items():
                torch.testing.assert_close(value, other.optimizer.state[q][name], rtol=5e-6, atol=1e-9)


@pytest.fixture
def no_pass(monkeypatch):
    """No pass over the gradients multiplies them."""

    def refuse(*_):
        raise AssertionError("the gradients were scaled in a pass of their own")

    monkeypatch.setattr(kernels, "scale_", refuse)


def clean(optimizer):
    return not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")


def test_every_stock_optimizer_with_a_fused_kernel_is_tried():
    assert set(FUSED) >= {"Adam", "AdamW", "SGD", "Adagrad"}


@pytest.mark.parametrize("scaled", [False, True], ids=["", "GradScaler"])
@pytest.mark.parametrize(("kind", "more"), CASES)
def test_folded_is_scaled_then_stepped(kind, more, scaled, no_pass):
    """Parameters, state and the gradient left in `.grad` are those of scaling first, with or without a loss scale."""
    ours, theirs = Run(kind, more, 1.0, scaled=scaled), Run(kind, more, scaled=scaled, belted=False)
    for i in range(6):
        ours.step(i)
        total = math.hypot(*(float(drawn(i, shape).norm()) for shape in SHAPES))
        theirs.step(i, scale_by=min(1.0, 1.0 / total))
        assert clean(ours.optimizer)
        assert ours.belt.last.total == pytest.approx(total, rel=1e-6)
    ours.close_to(theirs)
    assert math.hypot(*(float(p.grad.norm()) for p in ours.params)) == pytest.approx(1.0)
    assert [row.action for row in ours.rows] == ["scale"] * 6


@pytest.mark.parametrize("scaled", [False, True], ids=["", "GradScaler"])
@pytest.mark.parametrize(("kind", "more"), CASES)
def test_what_need_not_be_clipped_is_stepped_by_the_optimizer_itself(kind, more, scaled):
    """Nothing is folded in, not even a factor of 1: bit-identical, and the very object steps."""
    ours, theirs = Run(kind, more, 1e9, scaled=scaled), Run(kind, more, scaled=scaled, belted=False)
    stepped = []
    ours.optimizer.register_step_post_hook(lambda _optimizer, args, _kwargs: stepped.append(args[0]))
    for i in range(4):
        ours.step(i)
        theirs.step(i)
    assert all(map(torch.equal, ours.params, theirs.params))
    assert all(each is ours.optimizer for each in stepped)


def test_the_record_is_the_one_without_folding():
    """The same numbers under the same names, whether a kernel or a pass of ours carried it out."""
    folded, plain = Run(torch.optim.AdamW, {}, 1.0), Run(torch.optim.AdamW, {"fused": False}, 1.0)
    for i in range(5):
        folded.step(i)
        plain.step(i)
    for ours, theirs in zip(folded.rows, plain.rows, strict=True):
        assert (ours.action, ours.total, ours.total_after) == (theirs.action, theirs.total, theirs.total_after)
        assert ours.norm.tolist() == theirs.norm.tolist()
    assert folded.belt.state_dict() == plain.belt.state_dict()


@pytest.mark.parametrize("clip", ["value:0.1", "each:0.1", "value:0.1+norm:0.05", "norm:0.5+value:0.1"])
def test_only_the_last_scale_is_folded(clip):
    """What acts on elements, on single parameters, or before another rule, still acts on the gradients."""
    ours, plain = Run(torch.optim.AdamW, {}, clip), Run(torch.optim.AdamW, {"fused": False}, clip)
    for i in range(4):
        ours.step(i)
        plain.step(i)
    ours.close_to(plain)


def test_groups_of_both_kinds_are_not_folded():
    """Torch's other implementations refuse a `grad_scale`; one group of them and all is scaled as ever."""
    groups = lambda ps: [{"params": ps[:1]}, {"params": ps[1:], "fused": False}]  # noqa: E731
    ours, plain = Run(torch.optim.AdamW, {}, 1.0, groups=groups), Run(torch.optim.AdamW, {"fused": False}, 1.0)
    for i in range(4):
        ours.step(i)
        plain.step(i)
    ours.close_to(plain)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_in_two_groups_is_clipped_once():
    """The kernel would divide its gradient for each of them."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [p]})
    fasten(None, optimizer, clip=1.0)
    p.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-1.2, -1.6]))


def test_a_factor_that_float32_does_not_hold_is_not_folded():
    """1e38 brought down to 1e-3 would be a division by infinity."""
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    fasten(None, optimizer, clip=1e-3)
    p.grad = torch.full((4,), 1e38)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((4,), -5e-4))


@pytest.mark.parametrize("kind", FUSED.values(), ids=FUSED)
def test_a_step_that_raises_leaves_nothing_behind(kind):
    """Torch calls no post-hook then; the step after it is the step it would have been."""
    ours, theirs = Run(kind, {}, 1.0), Run(kind, {}, 1.0)
    for i in range(3):
        if i == 1:
            extra = ours.optimizer.register_step_pre_hook(lambda *_: ours.params[1].grad.resize_(0))
            with pytest.raises((RuntimeError, IndexError)):
                ours.step(7)
            extra.remove()
            assert clean(ours.optimizer)
            for mine, their in zip(ours.params, theirs.params, strict=True):  # whatever torch had done by then
                mine.data.copy_(their.data)
            ours.optimizer.load_state_dict(copy.deepcopy(theirs.optimizer.state_dict()))
        ours.step(i)
        theirs.step(i)
    ours.close_to(theirs)


def test_a_scale_of_the_users_own_is_kept():
    """Set by hand, as torch allows it: measured without it, multiplied into ours, and still there afterwards."""
    ours, theirs = Run(torch.optim.SGD, {}, 1.0), Run(torch.optim.SGD, {}, 1.0)
    mine = ours.optimizer.grad_scale = torch.tensor(8.0)
    for i in range(3):
        ours.step(i, scale_by=8.0)
        theirs.step(i)
    ours.close_to(theirs)
    assert ours.optimizer.grad_scale is mine
    assert float(mine) == 8.0


def test_a_closure_is_clipped_inside_the_step(no_pass):
    """Backward within `step`, as Lightning does it."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    belt = fasten(None, optimizer, clip=1.0)

    def closure():
        p.grad = torch.tensor([3.0, 4.0])
        return 0.5

    assert optimizer.step(closure) == 0.5
    assert optimizer.step(closure=closure) == 0.5
    torch.testing.assert_close(p.detach(), torch.tensor([-1.2, -1.6]))
    assert belt.last.action == "scale"
    assert clean(optimizer)


def test_two_belts_clip_one_after_the_other():
    """`gradbelt run` around a script with a belt of its own: the second measures what the first will leave."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    first, second = fasten(None, optimizer, clip=1.0), fasten(None, optimizer, clip=0.5)
    p.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert first.last.total == pytest.approx(5.0)
    assert second.last.total == pytest.approx(1.0)
    torch.testing.assert_close(p.detach(), torch.tensor([-0.3, -0.4]))


def test_a_scheduler_over_a_folded_optimizer_counts_its_steps(recwarn):
    """It wraps `step` to see that it was called, and warns where it wasn't."""
    run = Run(torch.optim.AdamW, {}, 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 1, gamma=0.5)
    for i in range(3):
        run.step(i)
        scheduler.step()
    assert [row.lr for row in run.rows] == [0.05, 0.025, 0.0125]
    assert not recwarn.list


@pytest.mark.parametrize("option", ["plain", "momentum"])
def test_a_first_step_that_overflows_leaves_no_momentum_of_nothing(option):
    """Fused SGD keeps uninitialised memory as momentum when the scaler leaves its first step out; under a guard not."""
    run, spared = (Run(torch.optim.SGD, OPTIONS[option], 1.0, scaled=True) for _ in range(2))
    run.step(0, scale_by=math.inf)
    assert not run.rows
    for i in range(3):
        run.step(i)
        spared.step(i)
    run.close_to(spared)
