"""What the look at a first step measures agrees with mean-field theory, and with a recurrence unrolled by hand."""

from __future__ import annotations

import math
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gradbelt.examine.foresee import profiles
from gradbelt.examine.look import Looker
from gradbelt.examine.profiles import trend

WIDTH, DEPTH, ROWS = 384, 24, 48


class Bench:
    """A patient without a script, for the Looker to hang its hooks on."""

    def __init__(self):
        self.at_torch, self.at_backward, self.after_backward = [], [], []
        self.at_optimizer, self.at_step, self.at_end = [], [], []
        self.around, self.plan, self.events = ExitStack(), SimpleNamespace(check="script"), {}

    def guarded(self, act, *args):
        return act(*args)

    def enter(self, manager):
        self.around.enter_context(manager)

    def event(self, kind, message, **data):
        self.events[kind] = data


def look(model, given):
    """One forward and backward, from a random direction at the output, under the real Looker."""
    torch.manual_seed(1)
    bench = Bench()
    looker = Looker(bench, stop=False)
    with bench.around:
        for act in bench.at_torch:
            act(bench)
        out = model(given)
        out = out[0] if isinstance(out, tuple) else out
        loss = (out * torch.randn_like(out)).sum()
        for act in bench.at_backward:
            act([loss])
        loss.backward()
        for act in bench.at_end:
            act()
    return looker.look


def rates(model, skip=4):
    """Growth of values and of gradients a layer, once the first layers have settled."""
    torch.manual_seed(0)
    chain = look(model, torch.randn(ROWS, WIDTH)).layers[skip:]
    forward, backward = profiles(chain)
    return forward.rate, backward.rate


def stack(act, sigma, norm=None, draw=None):
    """DEPTH layers of standard deviation sigma / sqrt(width), each behind the activation."""
    layers = []
    for _ in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH, bias=False)
        (draw or (lambda w: nn.init.normal_(w, std=sigma / math.sqrt(WIDTH))))(layer.weight)
        layers += [layer, *([norm(WIDTH)] if norm else []), act()]
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def mean_field(phi, slope, sigma):
    """The gain of gradients a layer at the fixed point of the values' variance. Schoenholz et al. 2017."""
    z, w = np.polynomial.hermite_e.hermegauss(101)
    w, q = w / w.sum(), 1.0
    for _ in range(200):
        q = sigma**2 * float(w @ phi(math.sqrt(q) * z) ** 2)
    return sigma * math.sqrt(float(w @ slope(math.sqrt(q) * z) ** 2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_orthogonal_layers_times_1_1_make_1_1_to_the_100():
    layers = [nn.Linear(32, 32, bias=False) for _ in range(100)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=1.1)
    forward, backward = profiles(look(nn.Sequential(*layers), torch.randn(8, 32)).layers)
    assert forward.total == pytest.approx(1.1**100, rel=0.01)
    assert backward.rate == pytest.approx(1.1, rel=1e-4)
    assert backward.fit > 0.9999


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_he_times_a_factor_has_that_gain_both_ways(factor):
    assert rates(stack(nn.ReLU, factor * math.sqrt(2))) == pytest.approx((factor, factor), rel=0.03)


def test_xavier_keeps_a_linear_network_as_it_is():
    assert rates(stack(nn.Identity, 0, draw=nn.init.xavier_normal_)) == pytest.approx((1.0, 1.0), rel=0.03)


@pytest.mark.parametrize(
    ("act", "phi", "slope", "sigma"),
    [
        (nn.Tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, 1.5),
        (nn.Tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, 2.0),
        (nn.Tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, 3.0),
        (nn.Sigmoid, sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)), 1.0),
        (nn.Sigmoid, sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)), 8.0),
    ],
)
def test_saturating_networks_have_the_gain_of_mean_field_theory(act, phi, slope, sigma):
    _, backward = rates(stack(act, sigma))
    assert backward == pytest.approx(mean_field(phi, slope, sigma), rel=0.03)


def test_batch_norm_without_a_skip_makes_gradients_grow_by_1_21_a_layer():
    """The square root of pi / (pi - 1): Yang et al. 2019, "A Mean Field Theory of Batch Normalization"."""
    forward, backward = rates(stack(nn.ReLU, math.sqrt(2), norm=nn.BatchNorm1d))
    assert backward == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.03)
    assert forward == pytest.approx(1.0, rel=0.03)


class Residual(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.scale = scale

    def forward(self, x):
        for layer in self.layers:
            x = x + self.scale * layer(torch.relu(x))
        return x


@pytest.mark.parametrize("scale", [1.0, 1 / math.sqrt(DEPTH)])
def test_a_residual_block_adds_its_variance_to_the_trunk(scale):
    """Values and gradients grow by sqrt(1 + scale²) a block: the square root of two where branches are not scaled."""
    growth = math.sqrt(1 + scale**2)
    seen = look(Residual(scale), torch.randn(ROWS, WIDTH))
    forward, backward = profiles(seen.layers)
    assert (forward.rate, backward.rate) == pytest.approx((growth, growth), rel=0.03)
    assert seen.num_skips == DEPTH - 1  # the trunk of the first is the data


@pytest.mark.parametrize(
    ("kind", "gain"),
    [("RNN", 1.0), ("RNN", 2.0), ("RNN", 3.0), ("LSTM", 1.0), ("LSTM", 6.0), ("GRU", 1.0), ("GRU", 6.0)],
)
def test_the_lag_profile_of_a_fused_recurrence_has_the_slope_of_one_unrolled_by_hand(kind, gain):
    """Within 0.02 a time step, whatever its sign; the fused layer is differentiated by its inputs, the unrolled one by
    its hidden states."""
    torch.manual_seed(3)
    size, steps, rows = 64, 50, 24
    fused, cell = getattr(nn, kind)(16, size), getattr(nn, f"{kind}Cell")(16, size)
    for gate in fused.weight_hh_l0.data.split(size):
        gate.normal_(std=gain / math.sqrt(size))
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in fused.state_dict().items()})
    given = 0.5 * torch.randn(steps, rows, 16)
    measured = trend(look(fused, given).lags)

    state = torch.zeros(rows, size, 2 if kind == "LSTM" else 1, requires_grad=True)
    states = []
    for step in given:
        made = cell(step, tuple(state.unbind(-1)) if kind == "LSTM" else state[..., 0])
        state = torch.stack(made if kind == "LSTM" else (made,), -1)
        states.append(state)
    gradients = torch.autograd.grad((state[..., 0] * torch.randn(rows, size)).sum(), states)
    unrolled = trend([float(gradient.norm()) for gradient in reversed(gradients)])
    assert math.log(measured.rate) == pytest.approx(math.log(unrolled.rate), abs=0.02)
