"""What is special about single rules, beyond the laws that all keep."""

import math

import numpy as np
import pytest
import torch

from gradbelt import clip, fasten
from gradbelt._types import ClipUnits, History, Keep, Scale, ScaleEach
from gradbelt.belt.apply import act
from gradbelt.belt.derive import learn
from gradbelt.clip.rule import accepted, measured
from gradbelt.errors import UsageError


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
    assert rule.note(measured(0.0, 1.0), Keep(), History()) == {"p1": (1.0,)}


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


@pytest.mark.parametrize("rule", [clip.AGC(0.01), clip.Each(0.01), clip.Groups({"*": 0.01})], ids=lambda r: r.name)
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
        lambda: clip.Norm(1.0, p=math.inf), lambda: clip.Norm(1.0, p=1), lambda: clip.Percentile(0),
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
        lambda: clip.from_string("norm:1,inf"), lambda: clip.from_string("norm:1+none"),
        lambda: clip.from_string("groups:*=value:1"), lambda: clip.from_string("ladder:0.1,1"),
    ],
)  # fmt: skip
def test_what_can_not_be_honoured_is_refused_with_advice(make):
    with pytest.raises(UsageError) as refusal:
        make()
    assert len(str(refusal.value)) > 40


@pytest.mark.parametrize("text", ["agc", "agc:0.02", "adagc", "adagc:1.1,2", "ladder", "ladder:2,1", "each:1",
                                  "ema:1.5", "median", "percentile:90", "zscore:3,inf", "groups:a=1;B=2"])  # fmt: skip
def test_every_rule_can_be_spelt(text):
    rule = clip.from_string(text)
    assert rule.name == text.partition(":")[0]
    assert clip.as_rule(rule) is rule


def test_names_in_patterns_keep_their_case():
    assert clip.from_string("Groups:B*=1") == clip.Groups({"B*": 1.0})
