"""A finding says where in the model it lies, and once an episode."""

import numpy as np
import pytest
from tests.contract.test_detectors import verdicts

from gradbelt._types import Finding, Level
from gradbelt.belt.episodes import QUIET, news
from gradbelt.symptoms.rows import recorded

NAMES = ("embed.weight", "blocks.0.attn.weight", "blocks.0.mlp.weight", "blocks.0.mlp.bias")


def run(*steps):
    return [recorded(i, 1.0, *norms, names=NAMES) for i, norms in enumerate(steps)]


def usual(count):
    return [(10.0 + 0.5 * (i % 3), 1.0 + 0.1 * (i % 4), 1.0 + 0.1 * (i % 3), 0.5) for i in range(count)]


def test_a_jump_is_put_down_to_what_jumped_not_to_what_is_large():
    """The embedding's gradient is the largest before and in the jump; what it gained is little."""
    found = verdicts(run(*usual(60), (30.0, 1.0, 300.0, 40.0)))[-1]
    jump = next(f for f in found if f.shape == "jump")
    parameters, modules = dict(jump.parts.parameters), dict(jump.parts.modules)
    assert jump.where == "blocks.0.mlp.weight"
    gains = np.array([30.0**2 - 10.5**2, 300.0**2 - 1.1**2, 40.0**2 - 0.5**2])
    assert list(parameters) == ["blocks.0.mlp.weight", "blocks.0.mlp.bias"]  # the embedding's share is below 1 %
    assert list(parameters.values()) == pytest.approx(list(gains[1:] / gains.sum()), rel=1e-3)
    assert modules["blocks.0.mlp"] == pytest.approx(sum(parameters.values()))
    assert "97% of the jump is in blocks.0.mlp.weight" in jump.message


def test_what_left_its_past_first_is_named_though_another_is_larger_by_then():
    steps = [*usual(60), (10.0, 1.0, 1.0, 3.0), (10.0, 1.0, 1.0, 9.0), (10.0, 1.0, 900.0, 30.0)]
    (jump,) = [f for f in verdicts(run(*steps))[-1] if f.shape == "jump"]
    assert jump.where == "blocks.0.mlp.weight"
    assert jump.parts.first == ("blocks.0.mlp.bias",)
    assert jump.parts.since == 60
    assert jump.message.endswith("blocks.0.mlp.bias left its past first, at step 60")


def test_a_nan_is_told_with_what_had_left_before():
    steps = [*usual(60), (10.0, 9.0, 1.0, 0.5), (10.0, float("nan"), float("nan"), 0.5)]
    (nan,) = [f for f in verdicts(run(*steps))[-1] if f.kind == "nan_grad"]
    assert nan.parts.first == ("blocks.0.attn.weight",)
    assert nan.parts.since == 60
    assert nan.parts.parameters == ()


def test_where_nothing_left_its_past_nothing_is_named():
    (nan,) = [f for f in verdicts(run(*usual(60), (np.nan,) * 4))[-1] if f.kind == "nan_grad"]
    assert nan.parts is None


def finding(kind, level=Level.WARN, shape=None):
    return Finding(kind=kind, step=0, level=level, shape=shape)


def told(course):
    """The steps at which something was told -> how many."""
    episodes, steps = {}, []
    for step, verdict in course:
        new, episodes = news(verdict, step, episodes)
        steps += [step] * len(new)
    return steps


def test_an_episode_is_told_once_and_the_next_one_again():
    spike = (finding("grad_explosion", shape="jump"),)
    quiet = [(step, ()) for step in range(20, 20 + QUIET)]
    assert told([*((step, spike) for step in range(20)), *quiet, (20 + QUIET, spike)]) == [0, 20 + QUIET]
    assert told((step, spike) for step in range(10 * QUIET)) == [0]  # one that goes on is one


def test_an_episode_that_grows_louder_is_told_again():
    watch, alarm = finding("divergence"), finding("divergence", Level.ALARM)
    assert told([(0, (watch,)), (1, (watch,)), (2, (alarm,)), (3, (watch,)), (4, (alarm,))]) == [0, 2]


def test_another_kind_or_shape_is_another_episode():
    both = (finding("grad_explosion", shape="jump"), finding("grad_explosion", shape="ramp"), finding("divergence"))
    assert told([(0, both[:1]), (1, both)]) == [0, 1, 1]
