"""What the belt says of its own clipping: too tight, too loose, not needed, turned; and never more than it saw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradbelt import fasten
from gradbelt._told import say
from gradbelt.belt.account import Account, Sample, bias_of, cosine_of
from gradbelt.clip.advice import Clipped, advise


def trained(clip, *, steps=250, lr=0.05, noise=0.0, adam=False, bn=False, fused=False, spike=0.0):
    """The belt of a small regression, after so many steps, and its final loss."""
    torch.manual_seed(0)
    middle = [torch.nn.Linear(8, 32), *([torch.nn.BatchNorm1d(32)] if bn else []), torch.nn.Tanh()]
    model = torch.nn.Sequential(*middle, torch.nn.Linear(32, 1))
    make = torch.optim.AdamW if adam else torch.optim.SGD
    optimizer = make(model.parameters(), lr=lr, fused=fused)
    belt = fasten(model, optimizer, clip=clip)
    true = torch.randn(8, 1)
    for _ in range(steps):
        x = torch.randn(64, 8)
        y = x @ true + noise * torch.randn(64, 1)
        if spike:
            y = y + spike * (torch.rand(64, 1) < 0.002)
        optimizer.zero_grad()
        loss = belt.see((model(x) - y).square().mean())
        loss.backward()
        optimizer.step()
    return belt, loss.item()


def test_a_threshold_far_too_tight_is_told_where_training_crawls():
    """By the loss, which barely falls, and by gradients that agree with each other: the noise is far off."""
    belt, tight = trained(0.001)
    _, four_times = trained(0.004)
    _, free = trained(None)
    advice = belt.advice()
    assert advice.fit == "too_tight"
    assert advice.clip_rate == 1.0
    assert advice.agreement > 0.5
    assert "probably too tight; try four times as much" in str(advice)
    assert free < four_times < tight  # and it is true


def test_an_optimizer_that_divides_by_the_gradients_size_is_not_called_slowed():
    """AdamW under the same threshold learns as well as without: the rate is told, and no more."""
    advice = trained(0.001, adam=True, lr=0.01)[0].advice()
    assert advice.fit == "often"
    assert "only a run with four times as much can tell" in str(advice)
    numbers = {"before": [1.0] * 100, "after": [0.1] * 100, "losses": [1.0] * 100, "agreement": 0.9}
    assert advise(Clipped(**numbers)).fit == "too_tight"
    assert advise(Clipped(**numbers, adaptive=True)).fit == "often"


def test_what_cannot_be_read_leaves_the_norms(monkeypatch):
    """A tensor of a kind that gives no elements costs the estimates, not the step."""
    import gradbelt.belt.account as module

    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr(module.Sample, "read", refuse)
    advice = trained("value:0.01", noise=1.0, steps=60)[0].advice()
    assert advice.steps == 60
    assert advice.bias is None


def test_clipping_at_every_step_that_learns_is_not_called_too_tight():
    """Normalised gradient descent is a choice."""
    assert trained(1.0, lr=0.5, noise=3.0)[0].advice().fit in ("often", "fits")


def test_a_threshold_that_lets_spikes_through_is_too_loose():
    advice = trained(1e6, spike=300.0, lr=0.001)[0].advice()
    assert advice.fit == "too_loose"
    assert advice.clip_rate == 0.0


def test_a_calm_run_with_batch_norm_needs_none():
    """Measured light tails; and nothing was sampled, for nothing was clipped."""
    belt, _ = trained(50.0, bn=True, noise=1.0)
    assert belt.advice().fit == "not_needed"
    assert belt._accounts[0]._sample is None


def test_too_few_steps_say_nothing():
    advice = trained(0.001, steps=20)[0].advice()
    assert advice.fit == "early"
    assert "too few" in str(advice)


@pytest.mark.parametrize("clip", [0.05, "value:100.0+norm:0.05"])
@pytest.mark.parametrize("fused", [False, True])
def test_clipping_the_norm_keeps_the_direction(clip, fused):
    advice = trained(clip, fused=fused, lr=0.01)[0].advice()
    if not (fused and clip != 0.05):  # a chain's last scaling may be left to the kernel: then nothing is claimed
        assert advice.cosine == pytest.approx(1.0, abs=1e-6)
    assert "turns the gradient" not in str(advice)


def test_clipping_values_turns_it():
    belt, _ = trained("value:0.01", noise=1.0)
    advice = belt.advice()
    assert advice.cosine < 0.9
    assert "clipping turns the gradient: its cosine with the raw one is 0." in str(advice)


def test_the_sampled_cosine_is_near_the_true_one():
    """4096 coordinates of a million, against all of them in float64."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(1000, 1000))
    raw = torch.randn(1000, 1000)
    parameter.grad = raw.clone()
    sample = Sample([parameter], ("w",))
    before = sample.read([parameter])
    parameter.grad.clamp_(-0.5, 0.5)
    a, b = raw.double().flatten(), parameter.grad.double().flatten()
    assert len(before) == 4096
    assert cosine_of(before, sample.read([parameter])) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=0.02)


def test_the_cosine_from_norms_is_exact():
    """Each gradient times a number of its own: Σ n·m over the lengths, and no gradient is read."""
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=5) for _ in range(4)]
    factors = [1.0, 0.2, 0.7, 0.05]
    raw = np.concatenate(parts)
    cut = np.concatenate([f * part for f, part in zip(factors, parts, strict=True)])
    norms = np.array([np.linalg.norm(part) for part in parts])
    true = raw @ cut / np.linalg.norm(raw) / np.linalg.norm(cut)
    assert cosine_of(norms, norms * factors) == pytest.approx(true)


def test_the_bias_grows_with_skewed_noise():
    """Rare large gradients that all pull one way are what clipping cuts: the mean moves away from them."""

    def bias(skew):
        generator = np.random.default_rng(0)
        pairs = []
        for _ in range(50):
            g = np.array([1.0, 0.0]) + 0.1 * generator.normal(size=2)
            if generator.random() < 0.1:
                g = g + np.array([0.0, skew])
            pairs.append((g, g * min(1.0, 1.2 / np.linalg.norm(g))))
        return bias_of(pairs)

    found = [bias(skew) for skew in (0.0, 5.0, 20.0, 80.0)]
    assert [b for b, _ in found] == sorted(b for b, _ in found)
    assert found[0][0] < 0.1
    assert found[-1][0] > 0.3
    assert found[-1][1] < 0.5
    assert bias_of([(np.ones(2), np.ones(2))] * 5) is None  # too few


def test_a_bias_that_is_only_a_shorter_step_is_called_that():
    before, after = [2.0] * 100, [0.2] * 100
    shorter = advise(Clipped(before=before, after=after, bias=0.9, turn=0.999))
    elsewhere = advise(Clipped(before=before, after=after, bias=0.9, turn=0.4))
    small = advise(Clipped(before=before, after=after, bias=0.1, turn=0.999))
    assert "the steps are shorter, not others" in str(shorter)
    assert "points elsewhere (cosine 0.40)" in str(elsewhere)
    assert "mean" not in str(small)


def test_advice_changes_not_a_bit():
    """The belt with its account and without: same losses, same random numbers."""
    torch.manual_seed(0)
    one = trained("value:0.01", noise=1.0, steps=60)[1]
    assert torch.rand(1).item() == (trained("value:0.01", noise=1.0, steps=60)[1], torch.rand(1).item())[1]
    import gradbelt.belt.belt as module

    class Silent(Account):
        def before(self, *_):
            pass

        def add(self, *_, **__):
            pass

    kept, module.Account = module.Account, Silent
    try:
        assert trained("value:0.01", noise=1.0, steps=60)[1] == one
    finally:
        module.Account = kept


@pytest.mark.parametrize("kind", ["sparse", "frozen", "changing"])
def test_gradients_that_cannot_be_sampled_are_passed_over(kind):
    torch.manual_seed(0)
    table, head = torch.nn.Embedding(50, 4, sparse=kind == "sparse"), torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*table.parameters(), *head.parameters()], lr=0.1)
    belt = fasten(None, optimizer, clip="value:0.001")
    for step in range(120):
        optimizer.zero_grad()
        rows = table(torch.randint(0, 50, (16,)))
        rows = rows.detach() if kind == "frozen" or (kind == "changing" and step % 30 > 15) else rows
        (head(rows) - 1).square().mean().backward()
        optimizer.step()
    assert belt.advice().steps == 120
    assert math.isfinite(belt.advice().cosine)


def test_every_sentence_is_there_in_japanese():
    spiky = [1.0] * 99 + [50.0]
    tight = {"agreement": 0.9, "losses": [1.0] * 100}
    for seen in (
        Clipped(before=[1.0], after=[1.0]),
        Clipped(before=[1.0] * 100, after=[1.0] * 100),
        Clipped(before=spiky, after=spiky),
        Clipped(before=spiky, after=[1.0] * 100),
        Clipped(before=[1.0] * 100, after=[0.5] * 100, cosine=0.4, bias=0.5, turn=0.5),
        Clipped(before=[1.0] * 100, after=[0.5] * 100, bias=0.5, turn=0.99, **tight),
    ):
        for sentence in advise(seen).said:
            assert say(sentence, "ja") != sentence
