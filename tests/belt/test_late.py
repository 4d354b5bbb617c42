"""A belt that never waits for the device does what a waiting one does, and says so one step later."""

import copy
import json
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradbelt import clip, fasten
from gradbelt._types import History, Keep, Scale
from gradbelt.belt.decide import note, with_notes
from gradbelt.belt.derive import learn
from gradbelt.clip import RULES
from gradbelt.clip.rule import foresees, limit_ahead, measured, own
from gradbelt.errors import UsageError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KINDS = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True, weight_decay=0.1),
    "amsgrad": lambda ps: torch.optim.Adam(ps, lr=0.01, fused=True, amsgrad=True, maximize=True),
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.01, fused=True, momentum=0.9, nesterov=True),
    "plain sgd": lambda ps: torch.optim.SGD(ps, lr=0.01, fused=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01, fused=True),
}
FORESEEN = [1.0, 1e9, None, "schedule:0,5,40,0.5", "ladder", "auto", "ema:1.5,2", "median", "percentile:80"]
SCALE = 2.0**10


class Run:
    """Three parameters under a fused optimizer, given gradients of a wanted norm, with or without a GradScaler."""

    def __init__(self, clip, wait, kind="adamw", device="cpu", *, scaled=False, **more):
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 3), (5,), (3, 2)]
        self.params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)) for shape in shapes]
        self.optimizer = KINDS[kind](self.params)
        self.scaler = torch.amp.GradScaler(device, init_scale=SCALE, enabled=scaled)
        self.rows, self.found = [], []
        self.belt = fasten(
            None, self.optimizer, clip, wait=wait, write=self.rows.append, tell=self.found.extend, **more
        )

    def give(self, i, norm, bad=None):
        generator = torch.Generator().manual_seed(i)
        parts = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in self.params]
        size = math.hypot(*(float(part.norm()) for part in parts))
        for p, part in zip(self.params, parts, strict=True):
            p.grad = (part * (norm / size)).to(p) * self.scaler.get_scale()
        if bad is not None:
            self.params[1].grad[2] = bad

    def step(self, i, norm, bad=None):
        self.belt.see(torch.tensor(norm))
        self.give(i, norm, bad)
        self.scaler.scale(torch.ones((), device=self.params[0].device))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @property
    def state(self):
        return copy.deepcopy((self.params, self.optimizer.state_dict()["state"]))


def course(seed, count):
    """Norms of a run: heavy-tailed, with spikes, zeros, and gradients that are not finite."""
    generator = torch.Generator().manual_seed(seed)
    for i, norm in enumerate(torch.exp(0.6 * torch.randn(count, generator=generator)).tolist()):
        norm *= 300.0 if i % 17 == 9 else 0.0 if i % 23 == 4 else 1.0
        yield norm, {5: math.nan, 6: math.inf, 25: math.nan}.get(i % 30)


def alike(a, b):
    """Rows that say the same, their norms to float32's rounding."""
    assert len(a) == len(b)
    for ours, theirs in zip(a, b, strict=True):
        for name in ("call", "step", "optimizer", "action", "losses", "names", "bad", "unclipped", "lr"):
            assert getattr(ours, name) == getattr(theirs, name), name
        for name in ("total", "total_after", "norm"):
            want = getattr(theirs, name)
            assert getattr(ours, name) == pytest.approx(want, rel=1e-5, nan_ok=True), name
        for name in ("weight", "peak", "zeros", "piled", "exponents", "faint"):
            assert (getattr(ours, name) is None) == (getattr(theirs, name) is None), name
            if getattr(ours, name) is not None:
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-5, nan_ok=True), name


def same(a, b, **tolerance):
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, **tolerance)
        for name, value in a.optimizer.state.get(p, {}).items():
            torch.testing.assert_close(value, b.optimizer.state[q][name], **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scaled", [False, True], ids=["", "GradScaler"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", FORESEEN)
def test_it_trains_and_records_as_a_waiting_belt(rule, kind, scaled, device):
    """Spikes, zeros, nan and inf: the same parameters and moments, and the same rows and findings, value for value."""
    late, waiting = (Run(rule, wait, kind, device, scaled=scaled) for wait in (False, True))
    for i, (norm, bad) in enumerate(course(1, 70)):
        late.step(i, norm, bad)
        waiting.step(i, norm, bad)
    late.belt.release()
    alike(late.rows, waiting.rows)
    same(late, waiting, rtol=2e-4, atol=1e-6)
    assert [(f.kind, f.step, f.where) for f in late.found] == [(f.kind, f.step, f.where) for f in waiting.found]
    assert {row.action for row in late.rows} >= ({"keep"} if scaled else {"keep", "skip: nan", "skip: inf"})


def test_every_rule_that_foresees_its_limit_is_tried():
    """A new rule with `limit_ahead` comes into the list above."""
    tried = {rule.name for rule in (clip.as_rule(spec) for spec in FORESEEN) if rule is not None}
    assert {name for name, rule in RULES.items() if foresees(rule)} == tried


class NoHostRead(TorchDispatchMode):
    """Raises where a number of a tensor is asked for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def nothing_is_read():
    """A context in which no number of a tensor may come to the host."""

    def refuse(*_):
        raise AssertionError("a tensor is read")

    class Context(NoHostRead):
        def __enter__(self):
            self.patch = pytest.MonkeyPatch()
            for name in ("numpy", "tolist", "cpu", "__array__"):
                self.patch.setattr(torch.Tensor, name, refuse)
            return super().__enter__()

        def __exit__(self, *error):
            self.patch.undo()
            return super().__exit__(*error)

    return Context


@pytest.mark.parametrize("scaled", [False, True], ids=["", "GradScaler"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", FORESEEN)
def test_no_number_is_read_between_backward_and_the_end_of_the_step(rule, kind, scaled, nothing_is_read):
    """Norms, losses, learning rate, loss scale: all of it stays on the device until the numbers of the step before."""
    run = Run(rule, False, kind, scaled=scaled)
    run.optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    for i in range(12):
        run.give(i, 3.0 + i % 5, math.nan if i == 5 else None)
        run.belt.unclipped = torch.tensor(7.0)
        run.belt.see(torch.tensor(2.0))
        run.scaler.scale(torch.ones(()))
        if i == 0 and (kind == "sgd" or rule == "auto"):  # makes its momentum; has no past to go by
            run.scaler.step(run.optimizer)
        else:
            with nothing_is_read():
                run.scaler.step(run.optimizer)
        run.scaler.update()
    run.belt.release()
    assert [row.unclipped for row in run.rows] == [7.0] * len(run.rows)
    assert run.rows[-1].lr == pytest.approx(0.01)


def test_that_check_bites(nothing_is_read):
    """A waiting belt doesn't pass it."""
    run = Run(1.0, True)
    run.give(0, 3.0)
    with pytest.raises(AssertionError, match=r"read|waits"), nothing_is_read():
        run.optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_sees_no_synchronising_call():
    """Torch's own watch over synchronising calls raises at the first."""
    run = Run(1.0, None, device="cuda")
    for i in range(8):
        run.give(i, 3.0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            run.optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(run.rows) == 7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_step_never_happened(kind, at, bad):
    """Left out on the device: parameters, moments and counters to the bit, and every decision after it."""
    struck, spared = Run("median", False, kind), Run("median", False, kind)
    for i in range(30):
        if i == at:
            before = struck.state
            struck.step(99, 1.0, bad)
            if at:
                assert all(map(torch.equal, before[0], struck.params))
                assert str(before[1]) == str(struck.optimizer.state_dict()["state"])
        struck.step(i, 1.0 + i % 3)
        spared.step(i, 1.0 + i % 3)
    struck.belt.release()
    spared.belt.release()
    assert struck.rows.pop(at).action == f"skip: {bad}"
    assert [row.total_after for row in struck.rows] == [row.total_after for row in spared.rows]
    assert all(map(torch.equal, struck.params, spared.params))


def test_without_guard_a_bad_step_happens():
    run = Run(1.0, False, guard=False)
    run.step(0, 1.0, math.nan)
    run.belt.release()
    assert run.params[1].isnan().any()
    assert run.rows[0].action == "keep"


def test_a_row_comes_when_the_same_optimizer_steps_again():
    """And at the latest when somebody asks: `catch_up`, `state_dict`, `pending_losses`, leaving the belt."""
    for ask in ("catch_up", "state_dict", "pending_losses", "release"):
        run = Run(1.0, False)
        with run.belt:
            for i in range(3):
                run.step(i, 2.0 + i)
                assert [row.total for row in run.rows] == pytest.approx([2.0 + j for j in range(i)])
                assert run.belt.calls == i
            getattr(run.belt, ask)()
            assert [row.total for row in run.rows] == pytest.approx([2.0, 3.0, 4.0])
            assert [row.losses["loss"] for row in run.rows] == [2.0, 3.0, 4.0]
        assert run.belt.calls == len(run.rows) == 3


def test_rows_keep_their_time_and_learning_rate():
    """Those of the step, not of the moment at which the numbers came."""
    run = Run(1.0, False)
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 1, gamma=0.5)
    for i in range(3):
        run.step(i, 1.0)
        scheduler.step()
    then = run.rows[-1].time
    run.belt.release()
    assert [row.lr for row in run.rows] == [0.01, 0.005, 0.0025]
    assert run.rows[-1].time > then


@pytest.mark.parametrize("rule", FORESEEN)
def test_a_late_belt_resumes_as_if_it_had_never_stopped(rule):
    """Saved in the middle, with a step under way, and through JSON."""
    whole, part = Run(rule, False), Run(rule, False)
    for i, (norm, bad) in enumerate(course(2, 60)):
        if i == 31:
            state = json.loads(json.dumps(part.belt.state_dict()))
            rows = part.rows
            part.belt.release()
            part.belt = fasten(None, part.optimizer, rule, wait=False, write=rows.append)
            part.belt.load_state_dict(state)
        whole.step(i, norm, bad)
        part.step(i, norm, bad)
    assert whole.belt.state_dict() == part.belt.state_dict()
    alike(part.rows, whole.rows)
    assert all(map(torch.equal, whole.params, part.params))


def test_several_optimizers_share_one_record():
    """Rows in the order of the steps, whoever's numbers are asked for first."""
    rows = {}
    for wait in (False, True):
        generator = torch.Generator().manual_seed(0)
        ps = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
        optimizers = [torch.optim.SGD([p], lr=0.1, fused=True) for p in ps]
        rows[wait] = []
        with fasten(None, optimizers, clip="median", wait=wait, write=rows[wait].append):
            for i in range(40):
                for j in (0, 0, 1, 2) if i % 3 else (1, 0):
                    ps[j].grad = torch.randn(3, generator=generator) * (50.0 if i == 30 else 1.0)
                    optimizers[j].step()
    alike(rows[False], rows[True])
    assert "scale" in {row.action for row in rows[False]}


def test_a_step_that_must_wait_comes_after_those_that_need_not():
    """A loop by hand beside an optimizer: nothing overtakes."""
    ps = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    rows = []
    optimizer = torch.optim.SGD([ps[0]], lr=0.1, fused=True)
    belt = fasten(None, optimizer, clip=1.0, wait=False, write=rows.append)
    for i in range(5):
        ps[0].grad = torch.full((3,), 1.0 + i)
        optimizer.step()
        ps[1].grad = torch.ones(3)
        belt.manual_step([ps[1]])
    assert [(row.call, row.step, row.optimizer) for row in rows] == [(i, i // 2, -(i % 2)) for i in range(10)]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_on_the_optimizer(kind):
    """Neither after a step nor after one that raises."""
    run = Run(1.0, False, kind)
    for i in range(3):
        run.step(i, 3.0)
        assert not hasattr(run.optimizer, "grad_scale")
        assert not hasattr(run.optimizer, "found_inf")
    extra = run.optimizer.register_step_pre_hook(lambda *_: run.params[1].grad.resize_(0))
    with pytest.raises((RuntimeError, IndexError)):
        run.step(3, 3.0)
    extra.remove()
    assert not hasattr(run.optimizer, "grad_scale")
    assert not hasattr(run.optimizer, "found_inf")


@pytest.mark.parametrize(("value", "true"), [(2e19, 4e19), (3e38, 6e38), (1e-30, 2e-30), (1e-44, 2e-44)])
def test_a_finite_gradient_is_never_taken_for_inf_nor_a_small_one_for_zero(value, true):
    """The squares of these are no float32."""
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    belt = fasten(None, optimizer, clip=1e3, wait=False)
    p.grad = torch.full((4,), value)
    optimizer.step()
    belt.release()
    assert belt.last.total == pytest.approx(true, rel=0.05)
    assert float(p.detach().double().norm()) == pytest.approx(min(true, 1e3), rel=0.05)


def test_what_no_float32_can_scale_down_is_left_out():
    """1e38 to 1e-3: the division would be by infinity, so the step doesn't take place, and the record says so."""
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    belt = fasten(None, optimizer, clip=1e-3, wait=False)
    p.grad = torch.full((4,), 1e38)
    optimizer.step()
    belt.release()
    assert not p.any()
    assert belt.last.action == "skip: too large to be scaled"
    assert belt.histories[0].accepted == 0


def test_a_step_that_the_scaler_leaves_out_does_not_count():
    """No row, no loss of it in the next one, and it is what a run that ends there leaves."""
    run = Run(1.0, False, scaled=True)
    run.step(0, 2.0)
    run.belt.see(torch.tensor(math.inf))
    run.give(1, 2.0, math.inf)
    run.scaler.scale(torch.ones(()))
    before = run.state
    run.scaler.step(run.optimizer)
    run.scaler.update()
    assert all(map(torch.equal, before[0], run.params))
    assert run.belt.pending_losses() == {"loss": math.inf}
    run.step(2, 3.0)
    run.belt.release()
    assert [row.losses["loss"] for row in run.rows] == [2.0, 3.0]
    assert run.belt.pending_losses() == {}
    assert not run.found


def test_accumulated_losses_belong_to_their_step():
    run = Run(1.0, False)
    for i, losses in enumerate([(1.0, 3.0), (5.0,), (2.0, 4.0, 6.0)]):
        for loss in losses:
            run.belt.see(torch.tensor(loss))
        run.give(i, 1.0)
        run.optimizer.step()
    run.belt.release()
    assert [row.losses["loss"] for row in run.rows] == [2.0, 5.0, 4.0]


def test_a_belt_that_only_watches_is_late_with_any_optimizer(nothing_is_read):
    """There is nothing to carry out, so nothing has to be fused."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.RMSprop([p], lr=0.1)
    belt = fasten(None, optimizer, clip=None, guard=False, wait=False)
    p.grad = torch.ones(3)
    with nothing_is_read():
        belt.pre_step(optimizer, (optimizer,), {})
    optimizer.step()
    belt.release()
    assert belt.calls == 2


def test_a_closure_is_taken_late():
    """Backward within `step`, as Lightning does it."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    belt = fasten(None, optimizer, clip=1.0, wait=False)

    def closure():
        p.grad = torch.tensor([3.0, 4.0])
        return 0.5

    assert optimizer.step(closure) == 0.5
    torch.testing.assert_close(p.detach(), torch.tensor([-0.6, -0.8]))
    assert belt.last is None
    belt.release()
    assert belt.last.total_after == pytest.approx(1.0)


def two_groups(p):
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    optimizer.param_groups.append({**optimizer.param_groups[0]})
    return optimizer


@pytest.mark.parametrize(
    ("make", "rule", "why"),
    [
        (lambda p: torch.optim.AdamW([p]), 1.0, "fused=True"),
        (lambda p: torch.optim.AdamW([{"params": [p], "fused": False}], fused=True), 1.0, "fused=True"),
        (lambda p: torch.optim.LBFGS([p]), None, "several times"),
        (lambda p: torch.optim.AdamW([p], fused=True), "value:1", "beforehand"),
        (lambda p: torch.optim.AdamW([p], fused=True), "zscore", "beforehand"),
        (lambda p: torch.optim.AdamW([p], fused=True), clip.Norm(1.0, p=1.0), "beforehand"),
        (lambda p: torch.optim.AdamW([p], fused=True), "norm:1+norm:2", "beforehand"),
        (lambda p: torch.optim.AdamW([torch.nn.Parameter(p.double())], fused=True), 1.0, "float32"),
        (two_groups, 1.0, "two groups"),
    ],
)
def test_what_cannot_be_done_without_waiting_is_refused_when_it_is_asked_for(make, rule, why):
    """With the reason; `wait=None` takes the same and waits."""
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(UsageError, match=why):
        fasten(None, make(p), clip=rule, wait=False)
    fasten(None, make(p), clip=rule, wait=None).release()


def test_on_cpu_a_belt_waits_unless_told_not_to():
    """There is nothing to wait for."""
    run = Run(1.0, None)
    run.step(0, 3.0)
    assert run.belt.last.total == pytest.approx(3.0)


@pytest.mark.parametrize("name", sorted(name for name, rule in RULES.items() if foresees(rule)))
def test_the_limit_ahead_is_the_one_decided_by(name):
    """Over a whole run, at every step: at most it and nothing happens, above it the total is scaled down to it."""
    rule = clip.from_string("schedule:0,2,50,0.5" if name == "schedule" else "norm:1" if name == "norm" else name)
    history = History()
    for norm, _ in course(3, 150):
        limit, seen = limit_ahead(rule, history), measured(norm)
        action = rule.decide(seen, own(history, rule, "0"))
        if limit is not None:
            assert action == (Keep() if norm <= limit else Scale(limit / norm))
        after = norm * action.coefficient if isinstance(action, Scale) else norm
        history = with_notes(learn(history, seen, action, after), note(seen, history, rule, action))
    assert limit is not None
