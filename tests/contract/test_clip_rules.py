"""Laws that every rule in clip.RULES keeps. A new rule is found by itself; its own tests say only what is special."""

import json
import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradbelt import clip, fasten, kernels
from gradbelt._types import (
    Action,
    Bound,
    Clamp,
    ClipGroups,
    ClipUnits,
    ClipUpdate,
    History,
    Keep,
    Measurement,
    Scale,
    ScaleEach,
    Skip,
)
from gradbelt.belt.apply import act, apply
from gradbelt.belt.decide import note, with_notes
from gradbelt.belt.derive import learn
from gradbelt.belt.fold import stand_in
from gradbelt.belt.updates import slow
from gradbelt.clip.auto import Auto
from gradbelt.clip.rule import Example, Rule, measured, own
from gradbelt.kernels import oracle

EPS = 1e-5  # float32 gradients


def examples(rule: type) -> list[Example]:
    module = sys.modules[rule.__module__]
    return [*module.CALM, *module.SICK]


def cases(which=clip.RULES):
    return [pytest.param(e, id=f"{name}-{i}") for name, rule in which.items() for i, e in enumerate(examples(rule))]


def seen(grads: list[torch.Tensor], like: Measurement) -> Measurement:
    """What the belt would measure of these gradients, in the circumstances of `like`."""
    norms = kernels.read(grads)
    return Measurement(
        call=like.call, step=like.step, optimizer=like.optimizer,
        names=like.names if len(like.names) == len(grads) else tuple(f"p{i}" for i in range(len(grads))),
        norm=norms, total=kernels.total(norms), lr=like.lr, weight=like.weight,
    )  # fmt: skip


def weights(grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """Parameters that these could be the gradients of: their units differ in size, one is zero."""
    made = [torch.linspace(0.0, 3.0, g.numel(), dtype=g.dtype).reshape(g.shape) for g in grads]
    made[0].view(-1)[: made[0][0].numel()] = 0.0
    return made


def applied(action: Action, grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the belt leaves of gradients through an action."""
    params = [torch.nn.Parameter(w) for w in weights(grads)]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    apply(action, params, seen(grads, examples(clip.Norm)[0].seen))
    return [torch.zeros_like(p.grad) if isinstance(action, Skip) else p.grad for p in params]


def size(grads: list[torch.Tensor]) -> float:
    return kernels.total(kernels.read(grads))


def cosine(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Of the angle between two lists of gradients; torch's own has an epsilon that a tiny gradient drowns in."""
    ends = size(before), size(after)
    return sum(float((a / ends[0] * (b / ends[1])).sum()) for a, b in zip(before, after, strict=True))


def gradients(total: float, seed: int = 0) -> list[torch.Tensor]:
    """Float64, so that a law is about the rule and not about rounding."""
    made = [torch.randn(s, generator=torch.Generator().manual_seed(seed + i), dtype=torch.float64)
            for i, s in enumerate([(5, 3), (3,), (2, 2, 2)])]  # fmt: skip
    scale = total / size(made)
    return [g * scale for g in made]


totals = st.floats(-12, 12).map(lambda log10: 10.0**log10)


def check_laws(rule: Rule, like: Measurement, history: History, total: float, seed: int = 0) -> None:
    """Every law at one point; AssertionError names the law that is broken."""
    grads = gradients(total, seed)
    measured = seen(grads, like)
    action = rule.decide(measured, history)
    assert rule.decide(measured, history) == action, "the same step gets the same answer"
    if isinstance(action, Scale):
        assert 0.0 < action.coefficient < 1.0, "a factor lies between 0 and 1"
    if isinstance(action, ScaleEach):
        assert all(0.0 < factor <= 1.0 for factor in action.coefficients), "a factor lies between 0 and 1"
        assert min(action.coefficients) < 1.0, "an action does something"
    if isinstance(action, ClipUpdate):
        check_laws_of_updates(rule, action, grads, like, history)
        return
    after = applied(action, grads)
    assert size(after) <= size(grads) * (1 + EPS), "the norm is never raised"
    for g, g_after in zip(grads, after, strict=True):
        assert size([g_after]) <= size([g]) * (1 + EPS), "no gradient is raised"
        if isinstance(action, ScaleEach | ClipGroups):
            assert cosine([g], [g_after]) > 1 - EPS, "each gradient's direction is kept"
    if isinstance(action, ClipGroups):
        for bound in action.bounds:
            left = [size_ for index in bound.where for size_ in oracle.magnitudes(after[index])]
            assert oracle.norm_p(left, bound.p) <= bound.limit * (1 + EPS), "a group ends within its bound"
    if isinstance(action, Scale):
        assert cosine(grads, after) > 1 - EPS, "Scale keeps the direction"
    if isinstance(action, Keep):
        assert all(map(torch.equal, grads, after)), "Keep changes no bit"
    again = rule.decide(seen(after, like), history)
    twice = applied(again, after)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=0) for a, b in zip(after, twice, strict=True)), "twice is once"
    if not isinstance(action, Keep):
        for factor in (2.0, 1e3, 1e9):
            larger = [g * factor for g in grads]
            through = applied(rule.decide(seen(larger, like), history), larger)
            bound = [size([g]) for g in after]
            if isinstance(action, Clamp):  # more elements reach the limit: bounded by all of them there
                bound = [action.limit * math.sqrt(g.numel()) for g in grads]
            if isinstance(action, ClipUnits):  # more units reach theirs
                bound = [
                    math.hypot(*(action.ratio * max(oracle.norm(unit), action.floor)
                                 for unit in oracle.units(w)))
                    for w in weights(grads)
                ]  # fmt: skip
            touched = [isinstance(action, Scale | Clamp) or not torch.equal(g, a)
                       for g, a in zip(grads, after, strict=True)]  # fmt: skip
            for was_touched, limit, left in zip(touched, bound, through, strict=True):
                assert not was_touched or size([left]) <= limit * (1 + EPS) ** 2, "a larger gradient gets no further"


def held_back(rules: list[Rule], grads: list[torch.Tensor], like: Measurement, history: History):
    """What the learning rate of each parameter is multiplied by under Adam, and the RMS of its update with and without,
    when all gradients have been 0.1 so far."""
    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    optimizer = torch.optim.Adam(params, lr=1.0, eps=1e-30)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
        square = torch.full_like(p, 0.01)
        optimizer.state[p] = {"step": torch.tensor(900.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": square}
    acting = stand_in(optimizer)
    measured = seen(grads, like)
    action, after, _ = act(rules, params, measured, history, guard=True, slow=partial(slow, acting))
    assert after is measured, "an update is held back, no gradient"
    assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True)), (
        "an update is held back, no gradient"
    )
    rates = {id(p): group["lr"] for group in acting.param_groups for p in group["params"]}
    factors = [rates[id(p)] for p in params]
    assert (action == Keep()) == (factors == [1.0] * len(grads)), "what is said is what was done"
    rms = [oracle.rms_of_update(oracle.numbers(g), [0.01] * g.numel(), [0.0] * g.numel(), 0.999, 1e-30, 901)
           for g in grads]  # fmt: skip
    return factors, [factor * mine for factor, mine in zip(factors, rms, strict=True)], rms


def check_laws_of_updates(
    rule: Rule, action: ClipUpdate, grads: list[torch.Tensor], like: Measurement, history: History
) -> None:
    factors, after, before = held_back([rule], grads, like, history)
    assert all(0.0 < factor <= 1.0 for factor in factors), "a factor lies between 0 and 1"
    for factor, left, was in zip(factors, after, before, strict=True):
        assert left <= action.limit * (1 + EPS), "no update ends above the limit"
        assert factor == 1.0 or was > action.limit, "nothing is done at or below the limit"
        assert factor == 1.0 or left >= action.limit * (1 - EPS), "it is held to the limit, no lower"
    assert held_back([rule, rule], grads, like, history)[0] == factors, "twice is once"
    for times in (2.0, 1e3, 1e9):
        further = held_back([rule], [g * times for g in grads], like, history)[1]
        assert max(further) <= action.limit * (1 + EPS), "a larger gradient gets no further"


@pytest.mark.parametrize("example", cases())
@settings(max_examples=40, deadline=None)
@given(total=totals, seed=st.integers(0, 50))
def test_a_rule_keeps_the_laws_on_gradients_of_every_size(example, total, seed):
    check_laws(example.rule, example.seen, example.history, total, seed)


def course(rule: Rule, like: Measurement, sizes: list[float]) -> History:
    """The history after steps of these sizes under the rule, as the belt would have it."""
    history = History()
    for step, total in enumerate(sizes):
        grads = gradients(total, seed=step % 7)
        measured = replace(seen(grads, like), losses={"loss": total})
        action = rule.decide(measured, own(history, rule, "0"))
        notes = note(measured, history, rule, action)
        left = 0.0 if isinstance(action, Skip) else size(applied(action, grads))
        history = with_notes(learn(history, measured, action, left), notes)
    return history


@pytest.mark.parametrize("example", cases())
@settings(max_examples=6, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1e-3, 0.5, 1.0, 1.5, 4.0, 1e6]), min_size=1, max_size=12),
    count=st.sampled_from([1, 30, 150]), total=totals,
)  # fmt: skip
def test_a_rule_keeps_the_laws_after_every_course(example, sizes, count, total):
    """With whatever it has noted of steps large and small."""
    history = own(course(example.rule, example.seen, (sizes * count)[:count]), example.rule, "0")
    check_laws(example.rule, replace(example.seen, step=count), history, total)


@pytest.mark.parametrize("name", clip.RULES)
def test_what_a_rule_notes_is_plain_and_bounded(name):
    """Notes survive JSON, and a long run has no more of them than a short one."""
    example = examples(clip.RULES[name])[0]
    short = course(example.rule, example.seen, [1.0, 3.0] * 120)
    long = course(example.rule, example.seen, [1.0, 3.0] * 130)
    for history in (short, long):
        assert {k: tuple(v) for k, v in json.loads(json.dumps(history.notes, allow_nan=False)).items()} == history.notes
    assert {k: len(v) for k, v in short.notes.items()} == {k: len(v) for k, v in long.notes.items()}


@pytest.mark.parametrize("example", cases())
def test_all_zero_gradients_are_left_alone(example):
    zeros = [torch.zeros(3), torch.zeros(2, 2)]
    assert example.rule.decide(seen(zeros, example.seen), example.history) == Keep()


@pytest.mark.parametrize("example", cases())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_measurement_that_is_not_finite_is_skipped(example, bad):
    action = example.rule.decide(seen([torch.tensor([bad, 1.0]), torch.ones(2)], example.seen), example.history)
    assert isinstance(action, Skip)
    assert str(bad) in action.reason


@pytest.mark.parametrize("name", [name for name in clip.RULES if name != "schedule"])  # that counts steps left out
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 2])
def test_one_bad_number_anywhere_is_skipped_and_changes_no_later_decision(name, bad, where):
    """The next step is decided, and moves the weights, as if it had not happened; only counters differ."""

    def loop(struck: bool):
        params = [torch.nn.Parameter(w.float()) for w in weights(gradients(1.0))]
        optimizer = torch.optim.Adam(params, lr=0.1)
        belt = fasten(None, optimizer, examples(clip.RULES[name])[-1].rule)
        for step, total in enumerate([1.0, 2.0, 30.0, None, 0.5, 20.0]):
            if total is None and not struck:
                continue
            for p, g in zip(params, gradients(total or 1.0, seed=step), strict=True):
                p.grad = g.float()
            if total is None:
                params[where].grad.view(-1)[1] = bad
            optimizer.step()
            if total is None:
                assert belt.last.action == f"skip: {bad}"
        return params, belt

    (params, belt), (others, spared) = loop(struck=True), loop(struck=False)
    assert all(map(torch.equal, params, others))
    assert (belt.last.action, belt.last.total_after) == (spared.last.action, spared.last.total_after)
    assert ago(belt.histories[0]) == ago(spared.histories[0])


def ago(history):
    """With the steps at which something was seen counted back from now."""
    marks = tuple((history.steps - at, norms) for at, norms in history.layers.weights)
    layers = replace(history.layers, weights=marks)
    return replace(history, steps=0, weight_at=history.steps - history.weight_at, layers=layers)


@pytest.mark.parametrize("name", clip.RULES)
def test_a_rule_is_silent_on_its_calm_and_acts_on_its_sick(name):
    module = sys.modules[clip.RULES[name].__module__]
    assert module.CALM
    assert module.SICK
    for example in module.CALM:
        assert example.action() == Keep()
    for example in module.SICK:
        assert example.action() != Keep()
        if isinstance(example.action(), ClipUpdate):
            continue  # what it does depends on moments: check_laws_of_updates
        grads = [torch.full((2,), float(norm) / math.sqrt(2.0), dtype=torch.float64) for norm in example.seen.norm]
        assert size(applied(example.action(), grads)) < size(grads)


@pytest.mark.parametrize("name", clip.RULES)
def test_a_rule_says_where_it_comes_from_and_shows_itself(name):
    rule = clip.RULES[name]
    assert rule.name == name
    assert len(rule.SOURCE) > 20
    assert ">>>" in rule.__doc__
    assert "Use it" in rule.__doc__
    assert rule.__dataclass_params__.frozen


def test_the_gradient_at_a_norm_limit_is_kept_to_the_bit_and_above_it_ends_there():
    at = seen([torch.tensor([3.0, 4.0])], examples(clip.Norm)[0].seen)
    assert clip.Norm(5.0).decide(at, History()) == Keep()
    action = clip.Norm(math.nextafter(5.0, 0)).decide(at, History())
    assert isinstance(action, Scale)
    for total in (1.1, 17.0, 1e9):
        grads = gradients(total)
        after = applied(clip.Norm(1.0).decide(seen(grads, at), History()), grads)
        assert size(after) == pytest.approx(1.0, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 10.0), st.floats(0.5, 20.0), st.integers(0, 50))
def test_no_element_ends_above_a_value_limit(limit, times, seed):
    grads = [g.float() for g in gradients(limit * times, seed)]
    after = applied(clip.Value(limit).decide(seen(grads, examples(clip.Value)[0].seen), History()), grads)
    for before, g in zip(grads, after, strict=True):
        assert torch.equal(g, before.clamp(-limit, limit))


# ------------------------------------------------------------------------------------------- a law must be able to fail


@dataclass(frozen=True)
class Wrong:
    """Deliberately broken, one way at a time."""

    how: str
    name: ClassVar[str] = "wrong"
    SOURCE: ClassVar[str] = "nobody"

    def decide(self, seen: Measurement, history: History) -> Action:
        total = seen.total
        match self.how:
            case "raises":
                return Scale(1.0 / total) if total else Keep()  # normalises: small gradients grow
            case "reverses":
                return Scale(-1.0 / total) if total > 1 else Keep()
            case "compounds":
                return Scale(0.5) if total else Keep()
            case "leaks":
                return Scale(total**-0.5) if total > 1 else Keep()  # a larger gradient gets through larger
            case "grows":  # an own limit for every size: 1 up to 100, 10 above
                limit = 1.0 if total < 100 else 10.0
                return Scale(limit / total) if total > limit * 1.001 else Keep()
            case "grows each":
                limit = 1.0 if total < 100 else 10.0
                above = seen.norm > limit * 1.001
                return ScaleEach(tuple(np.where(above, limit / seen.norm, 1.0).tolist())) if above.any() else Keep()
            case "does nothing":
                return ScaleEach((1.0,) * len(seen.norm))
            case "grows in groups":
                return ClipGroups((Bound(1.0 if total < 100 else 10.0, 1.0, tuple(range(len(seen.norm)))),))
            case "reverses one":
                return ScaleEach((-1.0, *[1.0] * (len(seen.norm) - 1)))
            case "notes the time":
                object.__setattr__(self, "how", "compounds")
                return ScaleEach((0.5,) * len(seen.norm))
            case "forgets":
                object.__setattr__(self, "how", "compounds")
                return Keep()
        return Keep()


@pytest.mark.parametrize(
    ("how", "law", "total"),
    [
        ("raises", "between 0 and 1", 1e-3),
        ("reverses", "between 0 and 1", 3.0),
        ("compounds", "twice is once", 3.0),
        ("leaks", "twice is once", 1e4),
        ("grows", "a larger gradient gets no further", 30.0),
        ("grows each", "a larger gradient gets no further", 30.0),
        ("does nothing", "an action does something", 3.0),
        ("grows in groups", "a larger gradient gets no further", 30.0),
        ("reverses one", "between 0 and 1", 3.0),
        ("notes the time", "same answer", 3.0),
        ("forgets", "same answer", 3.0),
    ],
)
def test_the_laws_reject_a_wrong_rule(how, law, total):
    with pytest.raises(AssertionError, match=law):
        check_laws(Wrong(how), examples(clip.Norm)[0].seen, History(), total)


# ----------------------------------------------------------------------------------------------------------- spelling


def test_a_rule_can_be_given_as_an_object_a_number_a_string_or_nothing():
    assert clip.as_rule(None) is None
    assert clip.as_rule("none") is None
    assert clip.as_rule(1) == clip.as_rule("1.0") == clip.as_rule("norm:1.0") == clip.Norm(1.0)
    assert clip.as_rule(np.float32(0.5)) == clip.Norm(0.5)
    assert clip.as_rule("auto") == Auto()
    assert clip.as_rule(clip.Value(2.0)) == clip.Value(2.0)
    assert clip.as_rule(" Value:0.5 ") == clip.Value(0.5)


@pytest.mark.parametrize("spec", [0, -1.0, math.nan, "norm:-1", "0", "nan", "norm", "norm:", "norm:1,0", "norm:big",
                                  "auto:3", True, [], clip.Norm, "", "none:1", "1:2"])  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused_with_advice(spec):
    with pytest.raises(clip.UsageError) as refusal:
        clip.as_rule(spec)
    assert len(str(refusal.value)) > 40


def test_a_misspelt_rule_is_answered_with_near_names():
    with pytest.raises(clip.NoSuchName, match=r"did you mean 'value'.*auto, .*none, norm, .*value"):
        clip.as_rule("valu:1")


# --------------------------------------------------------------------------------------------------------------- auto


def play(totals):
    """Thresholds that Auto sets and which steps it clips, when the belt learns what it clipped."""
    history, limits, clipped = History(), [], []
    for total in totals:
        seen = measured(total)
        action = Auto().decide(seen, history)
        left = total * action.coefficient if isinstance(action, Scale) else total
        limits.append(Auto().limit_ahead(history))
        clipped.append(action != Keep())
        history = History(
            levels=(*history.levels[-199:], math.log(left)),
            accepted=history.accepted + 1,
            notes=Auto().note(seen, action, history),
        )
    return np.array(limits), np.array(clipped)


def noise(sigma, count, seed=0):
    return np.exp(sigma * np.random.default_rng(seed).standard_normal(count))


@pytest.mark.parametrize("sigma", [0.05, 0.15, 0.3])
def test_auto_leaves_a_steady_run_alone(sigma):
    _, clipped = play(noise(sigma, 1500))
    assert clipped[300:].mean() < 0.03


def test_auto_clips_rare_spikes_and_little_else():
    spiky = np.random.default_rng(1).random(1500) < 0.03
    _, clipped = play(noise(0.2, 1500) * np.where(spiky, 30.0, 1.0))
    assert clipped[300:][spiky[300:]].all()
    assert clipped[300:][~spiky[300:]].mean() < 0.05


def test_auto_holds_heavy_tails_to_the_smaller_norms():
    odd = np.random.default_rng(1).random(1500) < 0.45
    limits, _ = play(noise(0.2, 1500) * np.where(odd, 30.0, 1.0))
    assert (limits[300:] < 1.5).all()  # an ordinary batch, not the mean of both kinds
    assert (limits[300:] > 0.5).all()  # and it doesn't creep to nothing


def test_autos_threshold_does_not_follow_an_explosion():
    limits, clipped = play(np.concatenate([noise(0.3, 300), 1.4 ** np.arange(1, 101)]))
    assert limits[-1] < 4.0 * limits[299]  # while the norm grew 4e14 times
    assert clipped[-80:].all()


def test_auto_follows_a_healthy_rise():
    limits, clipped = play(noise(0.1, 600) * np.linspace(1.0, 20.0, 600))
    assert limits[-1] > 20.0
    assert clipped[200:].mean() < 0.05


@pytest.mark.parametrize("first", [1000.0, 0.001])
def test_an_odd_first_step_does_not_set_autos_threshold(first):
    limits, _ = play([first, *noise(0.3, 200)])
    assert (limits[2:] < 4.0).all()
    assert limits[-1] > 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.floats(-20, 20))
def test_auto_has_no_scale_of_its_own_once_it_has_a_past(levels, shift):
    def past(by):
        moved = tuple(level + by for level in levels)
        return History(levels=moved, accepted=len(moved), notes={"raw": moved})

    assert Auto().limit_ahead(past(shift)) == pytest.approx(math.exp(shift) * Auto().limit_ahead(past(0.0)), rel=1e-9)


def test_a_step_that_was_all_zero_teaches_auto_nothing():
    assert Auto().limit_ahead(History(levels=(-math.inf, 0.0, -math.inf, 0.0))) == pytest.approx(1.05)
