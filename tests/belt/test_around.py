"""What lies around a step: loss scalers, losses, exceptions, and taking the belt off again."""

import math

import pytest
import torch

from gradbelt import Belt, fasten

SCALE = 2.0**10
KINDS = {
    "unfused": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
    "fused sgd": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9, fused=True),
}


class Scaled:
    """A small model trained through a GradScaler, its gradient poisoned at will."""

    def __init__(self, kind, **belt):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = KINDS[kind](self.model.parameters())
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=1000)
        self.rows, self.found = [], []
        self.belt = fasten(self.model, self.optimizer, write=self.rows.append, tell=self.found.extend, **belt)

    def step(self, i, *, overflow=False, unscale=False):
        self.optimizer.zero_grad()
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(i))
        loss = self.belt.see((self.model(x) - 1).square().mean() * (math.inf if overflow else 1.0))
        self.scaler.scale(loss).backward()
        if unscale:
            self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@pytest.mark.parametrize("kind", KINDS)
def test_under_a_loss_scaler_norms_are_unscaled(kind, unscale):
    """The record holds the true norm, whether the scaler or the fused step does the unscaling."""
    run = Scaled(kind, clip=None)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    parameters = list(run.model.parameters())
    true = torch.autograd.grad((run.model(x) - 1).square().mean(), parameters)
    run.step(0, unscale=unscale)
    assert run.rows[0].total == pytest.approx(math.hypot(*(float(g.norm()) for g in true)), rel=1e-5)
    assert run.rows[0].norm.tolist() == pytest.approx([float(g.norm()) for g in true], rel=1e-5)
    assert run.rows[0].peak.tolist() == pytest.approx([float(g.abs().max()) for g in true], rel=1e-5)


@pytest.mark.parametrize("clip", [0.5, "value:0.05"])
@pytest.mark.parametrize("kind", KINDS)
def test_under_a_loss_scaler_clipping_is_unscale_then_clip(kind, clip):
    """Ten clipped steps equal `scaler.unscale_`, torch's own clipping, `scaler.step`."""
    ours, theirs = Scaled(kind, clip=clip), Scaled(kind, clip=None)
    if isinstance(clip, float):
        cut = lambda: torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), clip)  # noqa: E731
    else:
        cut = lambda: torch.nn.utils.clip_grad_value_(theirs.model.parameters(), 0.05)  # noqa: E731
    original = theirs.scaler.unscale_
    theirs.scaler.unscale_ = lambda optimizer: (original(optimizer), cut())
    for i in range(10):
        ours.step(i)
        theirs.step(i, unscale=True)
    for p, q in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert {row.action for row in ours.rows} >= {"scale" if isinstance(clip, float) else "clamp"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_the_scaler_leaves_out_does_not_count(kind):
    """Loss scalers overflow by design: no record, no finding, no trace in the history, and the weights stay."""
    run = Scaled(kind, clip="auto")
    for i in range(3):
        run.step(i)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.optimizer.zero_grad()
    run.scaler.scale(run.model(torch.ones(1, 4)).sum() * math.inf).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    assert run.belt.calls == 3
    assert [row.step for row in run.rows] == [0, 1, 2]
    assert run.belt.histories[0].refused == 0
    assert all(map(torch.equal, before, run.model.parameters()))
    run.step(4)
    assert run.rows[-1].step == 3
    assert run.rows[-1].total < 100.0
    assert not run.found


@pytest.mark.parametrize("kind", ["fused", "fused sgd"])
def test_the_loss_of_a_step_left_out_is_not_the_next_ones(kind):
    """An overflowed loss must not come up as a finding of the good step after it."""
    run = Scaled(kind, clip=None)
    run.step(0)
    run.step(1, overflow=True)
    loss = run.step(2)
    assert run.rows[-1].losses == {"loss": pytest.approx(float(loss.detach()))}
    assert run.belt.pending_losses() == {}
    assert not run.found
    run.step(3, overflow=True)
    assert run.belt.pending_losses() == {"loss": math.inf}, "a run that ended here would leave it"


def test_a_script_can_say_that_a_step_was_left_out():
    """With unfused optimizers nobody calls `step` then, so whoever knows tells the belt."""
    run = Scaled("unfused", clip=None)
    run.step(0, overflow=True)
    run.belt.left_out()
    run.step(1)
    assert math.isfinite(run.rows[0].losses["loss"])
    assert not run.found


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.fixture
def held():
    """A parameter, its optimizer, and a belt that keeps rows and findings."""

    class Held:
        p = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=0.1)
        rows, found = [], []

        def step(self, value=1.0):
            self.p.grad = torch.full((2,), value)
            self.optimizer.step()

    held = Held()
    held.p = torch.nn.Parameter(torch.ones(2))
    held.optimizer = torch.optim.SGD([held.p], lr=0.1, momentum=0.9)
    held.rows, held.found = [], []
    held.belt = fasten(None, held.optimizer, clip=None, write=held.rows.append, tell=held.found.append)
    return held


def test_losses_of_one_name_are_averaged_over_the_step(held):
    """Accumulation over four micro-batches gives one loss, streams of different names one each."""
    for loss in (1.0, 2.0, 3.0, 6.0):
        held.belt.see(torch.tensor(loss))
    held.belt.see(torch.tensor(7.0), "critic")
    held.step()
    held.belt.see(torch.tensor(5.0))
    held.step()
    held.step()
    assert [row.losses for row in held.rows] == [{"loss": 3.0, "critic": 7.0}, {"loss": 5.0}, {}]


def test_a_loss_is_noted_as_it_was_when_it_was_seen(held):
    """Dividing it in place afterwards, as for accumulation, changes nothing; nor does it keep the graph alive."""
    loss = (held.p * 4).sum()
    assert held.belt.see(loss) is loss
    loss /= 4
    held.step()
    assert held.rows[0].losses == {"loss": 8.0}


def test_a_loss_of_several_elements_is_noted_by_its_mean(held):
    """`loss.backward(torch.ones(3))` is legal, so seeing it is."""
    held.belt.see(torch.tensor([1.0, 2.0, 6.0]))
    held.step()
    assert held.rows[0].losses == {"loss": 3.0}


@pytest.mark.parametrize("guard", [False, True])
def test_a_step_of_lbfgs_has_the_loss_it_began_with(guard):
    """Its further evaluations belong neither to this step's loss nor to the next one's."""
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([p], lr=0.1, max_iter=5)
    rows, seen = [], []
    belt = fasten(None, optimizer, clip=None, guard=guard, write=rows.append)

    def closure():
        optimizer.zero_grad()
        loss = belt.see((p - 3).square().sum())
        loss.backward()
        seen[-1].append(loss.item())
        return loss

    for _ in range(3):
        seen.append([])
        optimizer.step(closure)
    assert [row.losses["loss"] for row in rows] == [losses[0] for losses in seen]
    assert min(map(len, seen)) > 1


@pytest.mark.parametrize(("values", "kind"), [([math.nan], "nan_loss"), ([1.0, math.inf], "inf_loss"),
                                              ([math.inf, -math.inf], "nan_loss")])  # fmt: skip
def test_a_loss_that_is_not_finite_is_told_at_once(held, values, kind):
    """The verdict comes through `tell` at the very step, with the step and the loss's name in it."""
    held.step()
    for value in values:
        held.belt.see(torch.tensor(value), "train.py:7")
    held.step()
    ((finding,),) = held.found
    assert (finding.kind, finding.step, finding.where) == (kind, 1, "train.py:7")


def test_one_verdict_holds_all_that_was_found_at_a_step(held):
    """A nan loss and its nan gradient come together, in one call."""
    held.belt.see(torch.tensor(math.nan))
    held.step(math.nan)
    (verdict,) = held.found
    assert [finding.kind for finding in verdict] == ["nan_loss", "nan_grad"]
    assert verdict[1].where == "parameter 0"


# ------------------------------------------------------------------------------------------------ off again, whatever


def hooks(optimizer):
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_released_the_optimizer_is_as_it_was(held):
    """No hook is left; a nan goes through again, uncounted."""
    held.step()
    held.belt.release()
    assert hooks(held.optimizer) == 0
    held.step(math.nan)
    assert held.p.isnan().all()
    assert held.belt.calls == 1
    held.belt.release()


def test_leaving_the_context_releases(held):
    """Also by an exception, which passes through."""
    with pytest.raises(ZeroDivisionError), held.belt:
        raise ZeroDivisionError
    assert hooks(held.optimizer) == 0


def test_a_released_belt_can_be_fastened_again(held):
    """It goes on counting where it was; holding twice is holding once."""
    held.step()
    held.belt.release()
    held.belt.hold(held.optimizer)
    held.belt.hold(held.optimizer)
    held.step()
    assert held.belt.calls == 2
    assert hooks(held.optimizer) == 2


def test_a_belt_keeps_no_optimizer_alive():
    """Optimizers made in a loop are freed."""
    belt = Belt(clip=None)
    p = torch.nn.Parameter(torch.ones(1))
    for _ in range(3):
        optimizer = torch.optim.SGD([p], lr=0.1)
        belt.hold(optimizer)
        p.grad = torch.ones(1)
        optimizer.step()
    del optimizer
    assert len(belt._handles) == len(belt._order) == 0


def lr_times_ten(optimizer, _step):
    group = optimizer.param_groups[0]
    old, group["lr"] = group["lr"], group["lr"] * 10
    return lambda: group.update(lr=old)


def test_what_is_changed_for_a_step_is_put_back_after_it(held):
    """An intervention in `before` lasts one step, a gradient withheld is the user's again."""
    held.belt.before.append(lr_times_ten)
    held.step()
    assert held.p.tolist() == [0.0, 0.0]
    assert held.optimizer.param_groups[0]["lr"] == 0.1
    held.step(math.nan)
    assert held.p.grad.isnan().all()
    assert held.optimizer.param_groups[0]["lr"] == 0.1


def test_an_exception_in_a_closure_leaves_nothing_behind(held):
    """Out of memory in the forward of a step: lr and gradients are as they were, and the next step works."""
    held.belt.before.append(lr_times_ten)

    def closure():
        held.p.grad = torch.ones(2)
        raise MemoryError

    with pytest.raises(MemoryError):
        held.optimizer.step(closure)
    assert held.optimizer.param_groups[0]["lr"] == 0.1
    assert held.p.grad.tolist() == [1.0, 1.0]
    assert held.belt.calls == 0
    held.step()
    assert held.belt.calls == 1


def test_an_exception_after_a_bad_evaluation_gives_its_gradient_back():
    """LBFGS whose second evaluation is nan and whose third raises: weights and gradients are there again."""
    p = torch.nn.Parameter(torch.ones(2))

    class Twice(torch.optim.SGD):
        def step(self, closure):
            closure()
            closure()
            raise MemoryError

    optimizer = Twice([p], lr=0.1)
    belt = fasten(None, optimizer, clip=None)
    values = iter([1.0, math.nan])

    def closure():
        p.grad = torch.full((2,), next(values))

    with belt, pytest.raises(MemoryError):
        optimizer.step(closure)
    assert p.grad.isnan().all()
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("which", ["_write", "_tell"])
def test_an_exception_in_a_callback_comes_out_before_the_weights_move(held, which):
    """A callback that stops the training stops it in a clean state."""

    def stop(*_):
        raise KeyboardInterrupt

    held.belt.before.append(lr_times_ten)
    setattr(held.belt, which, stop)
    held.belt.see(torch.tensor(math.nan))
    with pytest.raises(KeyboardInterrupt):
        held.step(math.nan)
    assert held.p.tolist() == [1.0, 1.0]
    assert held.p.grad.isnan().all()
    assert held.optimizer.param_groups[0]["lr"] == 0.1


class Raises(torch.optim.SGD):
    """An optimizer that refuses to step without gradients."""

    def step(self, closure=None):
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            raise AssertionError("no gradients")
        return super().step(closure)


def test_an_exception_inside_the_step_leaves_no_gradient_withheld():
    """Leaving the belt gives them back; a newer gradient is never replaced by an old one."""
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = Raises([p, q], lr=0.1)
    p.grad = torch.full((2,), math.nan)
    with pytest.raises(AssertionError), fasten(None, optimizer, clip=None):
        optimizer.step()
    assert p.grad.isnan().all()

    belt = fasten(None, optimizer, clip=None)
    with pytest.raises(AssertionError):
        optimizer.step()
    p.grad, q.grad = None, torch.ones(2)
    optimizer.step()
    assert p.grad is None, "the nan of the step that raised doesn't come back into a later one"
    assert belt.last.action == "keep"
    assert q.tolist() == pytest.approx([0.9, 0.9])


# ------------------------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize("clip", [1.0, "value:0.5", "auto", None])
def test_a_loop_by_hand_is_clipped_and_spared(clip):
    """`manual_step` between backward and the update: clipped gradients, and a zero where it would have been a nan."""
    belt = Belt(clip=clip, guard=True)
    p = torch.nn.Parameter(torch.ones(2))
    for value in (3.0, math.nan, 3.0):
        p.grad = torch.full((2,), value)
        belt.manual_step([p, p])
        with torch.no_grad():
            p -= 0.1 * p.grad
    assert torch.isfinite(p).all()
    assert belt.last.optimizer == -1
    assert belt.last.step == 2
    assert len(belt.last.names) == 1
    if clip == 1.0:
        assert float(p.grad.norm()) == pytest.approx(1.0)
