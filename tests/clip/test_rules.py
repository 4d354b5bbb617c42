"""What is special about single rules, beyond the laws that all keep."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradbelt import clip, fasten, kernels
from gradbelt._types import ClipUnits, History, Keep, Scale, ScaleEach
from gradbelt.belt.apply import act, resolved
from gradbelt.belt.decide import note
from gradbelt.belt.derive import learn
from gradbelt.clip.rule import accepted, measured, own
from gradbelt.errors import UsageError
from gradbelt.kernels import oracle


def play(rule, totals, losses=None):
    """Norms left of a course of total norms under a rule, and the last history."""
    history, left = History(), []
    for step, total in enumerate(totals):
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        p.grad = torch.tensor([total], dtype=torch.float64)
        seen = measured(total)
        if losses is not None:
            object.__setattr__(seen, "losses", {"loss": losses[step]})
        action, after, notes = act([rule], [p], seen, history, guard=True)
        history = learn(history, seen, action, after.total)
        object.__setattr__(history, "notes", notes)
        left.append(p.grad.item())
    return np.array(left), history


STEADY = np.exp(0.3 * np.random.default_rng(0).standard_normal(400))


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        (clip.Percentile(10), 0.8, 0.97),
        (clip.Percentile(90), 0.05, 0.2),
        (clip.Median(2.0), 0.0, 0.05),
        (clip.Zscore(max_norm=math.inf), 0.005, 0.1),
        (clip.Ema(start=math.inf), 0.5, 0.9),
        (clip.Ema(1.5, start=math.inf), 0.02, 0.2),
        (clip.AdaGC(start=math.inf), 0.5, 1.0),  # from the smallest of 100 norms it climbs 0.1 % a step
    ],
    ids=str,
)
def test_on_a_steady_run_a_rule_clips_as_often_as_it_says(rule, least, most):
    left, _ = play(rule, STEADY)
    assert least <= (left < STEADY * (1 - 1e-6))[150:].mean() <= most


@pytest.mark.parametrize("rule", [clip.Ema(start=math.inf), clip.AdaGC(start=math.inf)], ids=str)
def test_a_limit_that_learns_what_it_left_does_not_follow_an_explosion(rule):
    left, _ = play(rule, np.concatenate([STEADY, 1.4 ** np.arange(1, 101)]))
    assert left[-1] < 1.2 * left[300:400].max()


def test_a_percentile_is_taken_of_raw_norms_so_that_it_can_rise_again():
    """Of clipped ones the limit could only fall: nothing above it would ever enter the window."""
    left, _ = play(clip.Percentile(50), [*[1.0] * 100, *[4.0] * 250])
    assert left[-1] == 4.0


def test_zscore_brings_a_norm_nearer_to_the_mean_the_further_out_it_is():
    rule, history = clip.Zscore(2.0, max_norm=math.inf), accepted(*[4.0, 6.0] * 50)
    near, far, further = (rule.limit(total, history) for total in (8.0, 20.0, 1e9))
    assert 7.0 > near > far > further >= 5.0


def test_zscores_cap_holds_from_the_first_step():
    assert clip.Zscore(max_norm=0.5).decide(measured(2.0), History()) == Scale(0.25)


@pytest.mark.parametrize(("step", "limit"), [(0, 0.5), (10, 0.5), (15, 0.75), (20, 1.0), (30, 2.0), (99, 2.0)])
def test_a_schedule_is_linear_between_its_points(step, limit):
    rule = clip.Schedule(((10, 0.5), (20, 1.0), (30, 2.0)))
    assert rule.limit(step) == pytest.approx(limit)
    assert clip.from_string("schedule:10,0.5,20,1,30,2") == rule


# ------------------------------------------------------------------------------------------------------------- ladder


def test_the_ladder_steps_down_while_an_explosion_goes_on_and_stays_there():
    left, history = play(clip.Ladder(), [*[0.5] * 50, *(10.0 ** np.arange(1, 20))])
    assert history.notes["0.ladder:at"][0] == 3.0
    assert left[-1] == pytest.approx(0.1)


def test_single_spikes_move_no_rung():
    _, history = play(clip.Ladder(), [0.5, 0.5, 0.5, 1e6] * 100)
    assert history.notes["0.ladder:at"][0] == 0.0


@pytest.mark.parametrize(("slope", "rung"), [(0.0, 0.0), (-0.01, 3.0), (0.01, 0.0)])
def test_the_ladder_steps_up_only_while_all_is_clipped_and_nothing_is_learnt(slope, rung):
    down = [*[0.5] * 50, *(10.0 ** np.arange(1, 14))]
    steady = [down[-1]] * 400
    losses = [1.0] * len(down) + [10.0 * math.exp(slope * step) for step in range(len(steady))]
    _, history = play(clip.Ladder(), [*down, *steady], losses)
    assert history.notes["0.ladder:at"][0] == rung


def test_the_ladder_stays_where_hardly_anything_is_clipped():
    down = [*[0.5] * 50, *(10.0 ** np.arange(1, 14))]
    _, history = play(clip.Ladder(), [*down, *[0.01] * 400], [1.0] * (len(down) + 400))
    assert history.notes["0.ladder:at"][0] == 3.0


# ----------------------------------------------------------------------------------------------- adagc, agc and groups


def test_adagc_holds_each_tensor_to_its_own_past():
    history = History(accepted=100, notes={"p0": (1.0,), "p1": (100.0,)})
    assert clip.AdaGC(2.0).decide(measured(4.0, 150.0, 1e6), history) == ScaleEach((0.5, 1.0, 1.0))


def test_a_gradient_of_zero_does_not_hold_its_tensor_at_zero():
    rule = clip.AdaGC()
    notes = rule.note(measured(0.0, 1.0), Keep(), History())
    assert notes == {"p0\np1": (0.0, 1.0)}
    later = History(accepted=100, notes=notes)
    assert rule.decide(measured(1e6, 1.0), later) == Keep()
    assert rule.note(measured(5.0, 1.0), Keep(), later) == {"p0\np1": (5.0, 1.0)}


def test_adagc_takes_up_what_it_noted_parameter_by_parameter():
    """A belt saved when each parameter had a note of its own decides as it would have."""
    rule, seen = clip.AdaGC(), measured(3.0, 8.0)
    old, new = ({"p0": (3.0,), "p1": (4.0,)}, {"p0\np1": (3.0, 4.0)})
    told = [History(accepted=100, notes=notes) for notes in (old, new)]
    assert rule.decide(seen, told[0]) == rule.decide(seen, told[1]) == ScaleEach((1.0, 4.0 * 1.05 / 8.0))
    noted = note(seen, History(accepted=100, notes={f"0.adagc:{k}": v for k, v in old.items()}), rule, Keep())
    assert noted == {"0.adagc:p0\np1": (3.0, 0.98 * 4.0 + (1 - 0.98) * 8.0)}


def test_a_parameter_that_has_no_gradient_for_a_while_keeps_its_past_with_adagc():
    rule, history = clip.AdaGC(2.0), History(accepted=100, notes={"0.adagc:p0\np1": (1.0, 4.0)})
    some = measured(8.0)  # p0 alone
    history = replace(history, notes=note(some, history, rule, rule.decide(some, own(history, rule, "0"))))
    assert history.notes == {"0.adagc:p0\np1": (0.98 + 2.0 * (1.0 - 0.98), 4.0)}
    assert rule.decide(measured(0.1, 80.0), own(history, rule, "0")) == ScaleEach((1.0, 0.1))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(self.embedding(x)))


def one_step(rule, scale=1.0):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    belt = fasten(model, optimizer, clip=rule)
    (scale * model(torch.arange(7)).square().sum()).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    return belt, before, {name: p.grad for name, p in model.named_parameters()}


def test_groups_are_clipped_by_their_own_norms_and_the_rest_is_left_to_the_bit():
    rule = clip.from_string("groups:embedding.*=0.5;norm.*=none;head.*=0.25")
    assert rule == clip.Groups({"embedding.*": 0.5, "norm.*": None, "head.*": clip.Norm(0.25)})
    belt, before, after = one_step(rule, 100.0)
    assert belt.last.action == "scale each"
    assert after["embedding.weight"].norm() == pytest.approx(0.5, rel=1e-5)
    assert math.hypot(after["head.weight"].norm(), after["head.bias"].norm()) == pytest.approx(0.25, rel=1e-5)
    for name in ("norm.weight", "norm.bias"):
        assert torch.equal(before[name], after[name])
        assert after[name]._version == 0
    total = math.hypot(*(g.norm() for g in after.values()))
    assert belt.last.total_after == pytest.approx(total, rel=1e-5)


def test_a_group_has_a_past_of_its_own():
    rule = clip.Groups({"p0": clip.Median(2.0), "*": None})
    history = History(notes={"p0/levels": (0.0,) * 30})
    assert rule.decide(measured(4.0, 1e6), history) == ScaleEach((0.5, 1.0))
    assert rule.decide(measured(1.9, 1e6), history) == Keep()


def test_agc_bounds_each_row_by_its_weights_and_leaves_the_head():
    belt, before, after = one_step(clip.AGC(0.01), 100.0)
    assert belt.last.action == "agc"
    model = Net()
    for row, weight in zip(after["embedding.weight"], model.embedding.weight, strict=True):
        assert row.norm() == pytest.approx(0.01 * weight.norm().item(), rel=1e-5)
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert belt.last.total_after == pytest.approx(math.hypot(*(g.norm() for g in after.values())), rel=1e-5)


def test_agc_that_had_nothing_to_clip_writes_nothing_and_says_keep():
    """Its rule can't know: it sees norms of gradients, not of rows."""
    rule = clip.AGC(100.0, exclude=("norm.*", "head.*"))
    belt, before, after = one_step(rule)
    assert isinstance(rule.decide(belt.last.measurement(), History()), ClipUnits)
    assert belt.last.action == "keep"
    assert belt.last.total_after == belt.last.total
    assert all(torch.equal(before[name], after[name]) and after[name]._version == 0 for name in after)


@pytest.mark.parametrize(
    "rule", [clip.AGC(0.01), clip.Each(0.01), clip.Norm(0.01, p=1), clip.Groups({"*": 0.01})], ids=lambda r: r.name
)
def test_under_a_fused_loss_scale_limits_are_of_unscaled_gradients(rule):
    """A GradScaler leaves a fused optimizer's gradients scaled, and the optimizer divides by `grad_scale`."""
    plain, scaled = Net(), Net()
    for model, factor in ((plain, 1.0), (scaled, 1024.0)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        fasten(model, optimizer, clip=rule)
        (factor * model(torch.arange(7)).square().sum()).backward()
        if factor != 1.0:
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(factor), torch.tensor(0.0)
        optimizer.step()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------------------ norms of other orders


def of_order(p, *gradients):
    return oracle.norm_p([size for g in gradients for size in oracle.magnitudes(g)], p)


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 3, math.inf])
def test_a_norm_of_any_order_ends_at_its_limit_and_keeps_the_direction(p):
    belt, before, after = one_step(clip.Norm(0.1, p=p), 10.0)
    assert of_order(p, *before.values()) > 1.0
    assert of_order(p, *after.values()) == pytest.approx(0.1, rel=1e-5)
    assert belt.last.action == "scale"
    factor = belt.last.total_after / belt.last.total
    for name, g in after.items():
        torch.testing.assert_close(g, before[name] * factor)


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 3, math.inf])
@pytest.mark.parametrize("kind", ["norm", "each", "modules", "groups"])
def test_at_its_limit_a_norm_of_any_order_is_not_written(kind, p):
    """The limit is the norm itself: the rule must read to know, and then leaves every bit and says keep."""
    _, before, _ = one_step(None)
    norms = {name: of_order(p, g) for name, g in before.items()}
    rule = {
        "norm": clip.Norm(of_order(p, *before.values()), p=p),
        "each": clip.Each(max(norms.values()), p=p),
        "modules": clip.Modules(of_order(p, *before.values()), p=p),
        "groups": clip.Groups({name: clip.Norm(norm, p=p) for name, norm in norms.items()}),
    }[kind]
    belt, before, after = one_step(rule)
    assert belt.last.action == "keep"
    assert belt.last.total_after == belt.last.total
    assert all(torch.equal(before[name], after[name]) and after[name]._version == 0 for name in after)


@pytest.mark.parametrize(("p", "reads"), [(3, 0), (math.inf, 0), (1, 1)])
def test_nothing_is_read_again_where_the_l2_norm_shows_that_the_limit_holds(p, reads, monkeypatch):
    calls = []
    read_p = kernels.read_p
    monkeypatch.setattr(kernels, "read_p", lambda tensors, p: calls.append(p) or read_p(tensors, p))
    one_step(clip.Norm(1e9, p=p))
    assert len(calls) == reads


def test_each_parameter_and_each_module_is_held_by_its_own_p_norm():
    _, before, each = one_step(clip.Each(1.0, p=1))
    _, _, modules = one_step(clip.Modules(1.0, p=1))
    for name, g in before.items():
        norm = of_order(1, g)
        torch.testing.assert_close(each[name], g / max(norm, 1.0))
        mine = [h for other, h in before.items() if other.split(".")[0] == name.split(".")[0]]
        torch.testing.assert_close(modules[name], g / max(of_order(1, *mine), 1.0))


def test_depth_says_which_parameters_are_a_module():
    names = ("module.a.b.0.weight", "module.a.b.0.bias", "module.a.b.1.weight", "module.a.c.weight", "module.scale")
    seen = replace(measured(3.0, 4.0, 12.0, 84.0, 5.0), names=names)
    held = {depth: clip.Modules(1.0, depth=depth).decide(seen, History()).coefficients for depth in (1, 2, 3, 9)}
    assert held[1] == pytest.approx([1 / math.hypot(3, 4, 12, 84)] * 4 + [1 / 5])
    assert held[2] == pytest.approx([1 / 13] * 3 + [1 / 84, 1 / 5])
    assert held[3] == held[9] == pytest.approx([1 / 5] * 2 + [1 / 12, 1 / 84, 1 / 5])


def test_groups_may_have_norms_of_different_orders_and_a_past():
    rule = clip.Groups(
        {"norm.*": clip.Norm(0.2, p=1), "embedding.*": clip.Percentile(50), "head.*": clip.Each(0.3, p=4)}
    )
    belt, before, after = one_step(rule)
    assert of_order(1, after["norm.weight"], after["norm.bias"]) == pytest.approx(0.2, rel=1e-5)
    assert torch.equal(before["embedding.weight"], after["embedding.weight"])
    for name in ("head.weight", "head.bias"):
        assert of_order(4, after[name]) == pytest.approx(min(0.3, of_order(4, before[name])), rel=1e-5)
    levels = belt.histories[0].notes["0.groups:norm.*/levels"]
    left = math.hypot(after["norm.weight"].norm(), after["norm.bias"].norm())
    assert math.exp(levels[-1]) == pytest.approx(left, rel=1e-5)


def test_finite_gradients_of_every_kind_count_into_one_p_norm():
    kinds = [torch.tensor([3e4], dtype=torch.float16), torch.tensor([1e38], dtype=torch.bfloat16),
             torch.tensor([1e300], dtype=torch.float64), torch.tensor([3e38 + 3e38j]), torch.zeros(0),
             torch.sparse_coo_tensor([[1, 1]], [[1e38], [1e38]], (3, 1), check_invariants=True)]  # fmt: skip
    params = [torch.nn.Parameter(torch.zeros(g.shape, dtype=g.dtype)) for g in kinds]
    for p, g in zip(params, kinds, strict=True):
        p.grad = g
    optimizer = torch.optim.SGD(params, lr=0.0)
    belt = fasten(None, optimizer, clip=clip.Norm(1e299, p=1))
    optimizer.step()
    assert params[2].grad.item() == pytest.approx(1e299)
    assert abs(params[3].grad.item()) == pytest.approx(math.hypot(3e37, 3e37))
    assert belt.last.action == "scale"


def test_a_group_by_group_norm_under_a_loss_scale_is_of_unscaled_gradients():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = 1024.0 * torch.tensor([3.0, 4.0])
    action = clip.Norm(3.5, p=1).decide(measured(5.0), History())
    assert resolved(action, [p], scale=1024.0) == Scale(0.5)
    assert resolved(action, [p]) == Scale(0.5 / 1024.0)


# --------------------------------------------------------------------------------------------------------- composition


def test_a_chain_is_spelt_with_plus_and_acts_in_order():
    rule = clip.from_string("value:0.5 + norm:1e+0")
    assert rule == clip.Chain(clip.Value(0.5), clip.Norm(1.0)) == clip.Chain(clip.Chain(*rule))
    assert clip.as_rule(rule) is rule
    belt, before, after = one_step(clip.Chain(clip.Value(0.5), clip.Norm(1.0)), 100.0)
    bent = {name: g.clamp(-0.5, 0.5) for name, g in before.items()}
    total = math.hypot(*(g.norm() for g in bent.values()))
    assert belt.last.action == "scale"
    assert belt.last.total_after == pytest.approx(1.0, rel=1e-6)
    for name, g in after.items():
        torch.testing.assert_close(g, bent[name] / total)


def test_two_rules_of_one_kind_in_a_chain_remember_by_themselves():
    belt, _, _ = one_step(clip.Chain(clip.Percentile(90), clip.Norm(0.5), clip.Percentile(10)), 100.0)
    first, second = (belt.histories[0].notes[f"{place}.percentile:raw"] for place in (0, 2))
    assert first[0] == pytest.approx(math.log(belt.last.total))
    assert second[0] == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: clip.Norm(1.0, p=0), lambda: clip.Norm(1.0, p=math.nan), lambda: clip.Each(1.0, p=-1),
        lambda: clip.Norm(1.0, p="2"), lambda: clip.Modules(1.0, depth=0), lambda: clip.Modules(1.0, depth=1.5),
        lambda: clip.Modules(1.0, depth=math.nan), lambda: clip.Modules(0.0), lambda: clip.Percentile(0),
        lambda: clip.Percentile(math.nan), lambda: clip.Schedule(()), lambda: clip.Schedule(((1, 1.0), (0, 1.0))),
        lambda: clip.Schedule(((0, -1.0),)), lambda: clip.Schedule(3), lambda: clip.Schedule(((0, math.inf),)),
        lambda: clip.Ladder(()), lambda: clip.Ladder((1.0, 2.0)), lambda: clip.Ladder((0.0,)),
        lambda: clip.Groups({}), lambda: clip.Groups({"*": clip.Value(1.0)}), lambda: clip.Groups({"*": clip.AGC()}),
        lambda: clip.Groups({"*": "norm:1"}), lambda: clip.Groups({"*": clip.Chain(clip.Norm(1.0))}),
        lambda: clip.Groups({"*": 0.0}), lambda: clip.Chain(), lambda: clip.Chain(1.0), lambda: clip.Chain(clip.Norm),
        lambda: clip.AGC(0.0), lambda: clip.AdaGC(-1.0), lambda: clip.Ema(0.0), lambda: clip.Median(math.nan),
        lambda: clip.Zscore(0.0), lambda: clip.Each(0), lambda: clip.from_string("schedule:"),
        lambda: clip.from_string("schedule:0,1,2"), lambda: clip.from_string("groups:"),
        lambda: clip.from_string("groups:*"), lambda: clip.from_string("agc:0.1,0.1,0.1"),
        lambda: clip.from_string("norm:1,0"), lambda: clip.from_string("norm:1,2,3"),
        lambda: clip.from_string("norm:1+none"), lambda: clip.from_string("groups:*=value:1"),
        lambda: clip.from_string("ladder:0.1,1"),
    ],
)  # fmt: skip
def test_what_can_not_be_honoured_is_refused_with_advice(make):
    with pytest.raises(UsageError) as refusal:
        make()
    assert len(str(refusal.value)) > 40


@pytest.mark.parametrize("text", ["agc", "agc:0.02", "adagc", "adagc:1.1,2", "ladder", "ladder:2,1", "each:1",
                                  "ema:1.5", "modules:1", "median", "percentile:90", "zscore:3,inf",
                                  "groups:a=1;B=2"])  # fmt: skip
def test_every_rule_can_be_spelt(text):
    rule = clip.from_string(text)
    assert rule.name == text.partition(":")[0]
    assert clip.as_rule(rule) is rule


def test_numbers_after_the_threshold_are_the_depth_and_the_order():
    assert clip.from_string("norm:1,inf") == clip.Norm(1.0, p=math.inf)
    assert clip.from_string("each:0.5,1") == clip.Each(0.5, p=1)
    assert clip.from_string("modules:1,3,1") == clip.Modules(1.0, depth=3, p=1)
    assert clip.from_string("groups:a.*=norm:1,0.5;*=modules:2") == clip.Groups(
        {"a.*": clip.Norm(1.0, p=0.5), "*": clip.Modules(2.0)}
    )


def test_names_in_patterns_keep_their_case():
    assert clip.from_string("Groups:B*=1") == clip.Groups({"B*": 1.0})


def test_below_order_2_a_small_l2_norm_proves_nothing():
    p = torch.nn.Parameter(torch.zeros(100))
    p.grad = torch.full((100,), 0.09)  # L2 norm 0.9, sum 9
    optimizer = torch.optim.SGD([p], lr=0.0)
    fasten(None, optimizer, clip=clip.Norm(1.0, p=1))
    optimizer.step()
    assert p.grad.sum().item() == pytest.approx(1.0)
