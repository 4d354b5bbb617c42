"""The profiles agree with what theory says of networks it can be worked out for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradbelt.examine.checkup import Layer, Look
from gradbelt.examine.foresee import foresee, times
from gradbelt.examine.profiles import trend


def layers(num, *, made=1.0, grad=1.0, **more):
    """A chain in which each layer multiplies values by `made`, and gradients on their way back by `grad`."""
    about = {"kind": "Linear", "width": 4096, "given": 1.0, "peak": 1.0, "he": 1.0, **more}
    return tuple(
        Layer(name=f"layers.{i}", made=made ** (i + 1), grad=grad ** (num - 1 - i), **about) for i in range(num)
    )


def test_a_hundred_layers_of_gain_1_1_are_said_to_make_1_1_to_the_100():
    found = foresee(Look(layers=layers(100, made=1.1)), 1.0)
    assert found.forward.num_steps == 100
    assert found.forward.rate == pytest.approx(1.1, rel=1e-4)
    assert found.forward.total == pytest.approx(1.1**100, rel=0.01)
    assert [risk.cause for risk in found.risks] == ["depth"]
    assert "1.10 a layer, 100 layers: 1.4e4" in found.risks[0].what


def test_a_he_initialised_relu_network_has_gain_1():
    torch.manual_seed(0)
    x, sizes = torch.randn(64, 1024), []
    for _ in range(20):
        layer = nn.Linear(1024, 1024, bias=False)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        x = layer(torch.relu(x)).detach()
        sizes.append(float(x.square().mean().sqrt()))
    assert trend(sizes).rate == pytest.approx(1.0, rel=0.03)


def test_an_overflow_does_not_bend_the_line():
    line = trend([2.0**i for i in range(50)] + [math.inf, math.nan])
    assert line.rate == pytest.approx(2.0)
    assert line.num_steps == 51
    assert trend([2.0**i for i in range(50)] + [0.0, 1.0]).num_steps == 49


def test_growth_that_the_draw_of_narrow_layers_can_make_is_no_finding():
    """Forty layers of width 8 stray by e^5 in one standard deviation: e^4 is nothing, in wide ones it is a finding."""
    grad = math.exp(4 / 39)
    assert not foresee(Look(layers=layers(40, grad=grad, width=8)), 1.0).risks
    assert foresee(Look(layers=layers(40, grad=grad, width=4096)), 1.0).risks


@pytest.mark.parametrize(
    ("look", "cause"),
    [
        (Look(layers=layers(12, made=3.0, grad=3.0, he=3.0)), "init"),
        (Look(layers=layers(30, grad=1.4)), "activation"),
        (Look(layers=layers(50, made=1.41, grad=1.41), num_skips=50), "residual_scaling"),
        (Look(layers=layers(40, grad=1.21), num_norms=40), "depth"),
        (Look(lags=tuple(1.2**i for i in range(60)), lags_of="rnn", sequence=60), "recurrence"),
        (Look(attended=80.0), "attention_logits"),
        (Look(cross_entropy=900.0, classes=4, logits=2000.0), "init"),
        (Look(cross_entropy=900.0, classes=4, logits=2000.0, input_rms=100.0), "unnormalised_data"),
        (Look(moves={"a": 0.2, "b": 30.0, "c": 5.0}), "learning_rate"),
        (Look(moves={"a": math.nan}, target_rms=1e4), "unnormalised_data"),
        (Look(input_finite=False), "data_outlier"),
        (Look(broken="head", loss=math.nan), "numeric_op"),
        (Look(loss=math.inf, moves={"a": math.nan}, target_rms=1e4), "numeric_op"),
    ],
)
def test_each_consequence_is_called_by_its_cause(look, cause):
    assert [risk.cause for risk in foresee(look, 1.0).risks] == [cause]


@pytest.mark.parametrize(
    "look",
    [
        Look(layers=layers(6, made=0.5, grad=0.5)),  # vanishing is not exploding
        Look(input_rms=200.0),  # raw pixels alone do no harm
        Look(moves={"body": 0.6, "head": 1.4}),
        Look(lags=tuple(0.9**i for i in range(60)), sequence=60),
        Look(attended=40.0, cross_entropy=2.4, classes=10, logits=3.0, moves={"a": 0.05}),
    ],
)
def test_an_unusual_number_without_a_consequence_is_no_finding(look):
    assert foresee(look, 1.0).risks == ()


def test_the_advice_on_clipping_goes_by_the_kind_of_network():
    def clip(norm=0.83, **look):
        advice = foresee(Look(**look), norm).clip
        return advice.needed, advice.threshold

    assert clip(recurrent=("LSTM",), sequence=60) == (True, 0.83)
    assert clip(attention=True, num_norms=13) == (True, 1.0)
    assert clip(layers=layers(20), num_norms=20) == (False, None)
    assert clip(layers=layers(4)) == (False, None)
    assert clip(layers=layers(60, width=64)) == (True, 0.83)
    assert clip(layers=layers(12, made=3.0, grad=3.0, he=3.0)) == (False, None)


def test_a_factor_no_float_can_hold_is_still_said():
    assert times(1000 * math.log(5.6)) == "1.5e748"
