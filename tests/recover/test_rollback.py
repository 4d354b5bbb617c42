"""After a rollback training goes on as it did, to the last bit; and only from a state that has shown to be sound."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import gradbelt
from gradbelt.errors import UsageError
from gradbelt.recover.ring import CERTAIN, Snapshots
from gradbelt.recover.state import State


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.last = nn.Linear(8, 1).bfloat16()
        self.register_buffer("calls", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.calls += 1
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))).bfloat16()).float()


class Training:
    """Everything that has a state: batch norm, dropout, moments, a schedule, a loss scaler, random numbers of all three
    kinds, half-precision weights, a belt that clips by its own past."""

    def __init__(self, optimizer=torch.optim.AdamW, every=10, **snapshots):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        self.model = Net()
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.99)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=7)
        self.kept = Snapshots(every, also=(self.schedule, self.scaler), **snapshots)
        self.belt = gradbelt.fasten(self.model, self.optimizer, clip="auto", snapshots=self.kept)
        self.batches = torch.randn(200, 16, 6, generator=torch.Generator().manual_seed(1))

    def step(self, i, spoil=1.0):
        x = self.batches[i]
        out = self.model(x)
        noise = 0.1 * (random.random() + np.random.rand())
        loss = (out - x.sum(1, keepdim=True) - noise).square().mean() * spoil
        self.optimizer.zero_grad()
        if spoil != 1.0:  # a scaler would leave the step out before the belt sees it
            loss.backward()
            self.optimizer.step()
            return loss.item()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.item()

    def all_of_it(self):
        """Every bit, as one comparable value."""
        moments = [
            {name: value.clone() if torch.is_tensor(value) else value for name, value in state.items()}
            for state in self.optimizer.state.values()
        ]
        parts = (
            [tensor.detach().clone() for tensor in (*self.model.parameters(), *self.model.buffers())],
            moments,
            [{name: each for name, each in group.items() if name != "params"} for group in self.optimizer.param_groups],
            self.schedule.state_dict(),
            self.scaler.state_dict(),
            self.belt.state_dict(),
            random.random(), np.random.rand(), torch.rand(1).item(),
        )  # fmt: skip
        return repr(bits(parts))


def bits(value):
    if torch.is_tensor(value):
        return str(value.dtype), value.reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {name: bits(item) for name, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop])
def test_training_goes_on_from_a_rollback_to_the_last_bit(optimizer):
    """Parameters, moments, schedule, scaler, batch norm, random numbers and the belt's decisions; twice over."""
    training = Training(optimizer)
    losses = [training.step(i) for i in range(69)]
    wanted = training.all_of_it()
    for _ in range(2):
        start = training.belt.rollback()
        assert start == 40  # the one of step 50 has 19 steps behind it, and is not certified yet
        assert all(parameter.grad is None for parameter in training.model.parameters())
        assert [training.step(i) for i in range(start, 69)] == losses[start:]
        assert training.all_of_it() == wanted


def test_moments_keep_their_type():
    """`load_state_dict` would cast them to that of their parameter."""
    training = Training()
    training.step(0)
    moments = training.optimizer.state[training.model.last.weight]
    moments["exp_avg"] = moments["exp_avg"].double()
    state = State(training.model, [training.optimizer])
    training.optimizer.state.clear()
    state.put_back()
    assert training.optimizer.state[training.model.last.weight]["exp_avg"].dtype == torch.float64


def test_what_an_alarm_finds_uncertified_is_never_gone_back_to():
    """The loss is nan at step 45: the snapshots of 30 and 40 may hold whatever led to it."""
    training = Training()
    for i in range(62):
        training.step(i, spoil=float("nan") if i == 45 else 1.0)
    assert training.belt.rollback() == 20


def test_a_first_rollback_needs_a_certified_snapshot():
    training = Training(every=100)
    for i in range(CERTAIN - 1):
        training.step(i)
    with pytest.raises(UsageError, match="none is yet"):
        training.belt.rollback()
    training.step(CERTAIN)
    assert training.belt.rollback() == 0


def test_snapshots_stay_within_their_bytes():
    training = Training(every=5, most=50)
    for i in range(100):
        training.step(i)
    one = State(training.model, [training.optimizer], (training.schedule, training.scaler)).num_bytes
    assert training.kept._bytes() > 10 * one
    bound = Training(every=5, most=50, megabytes=3.5 * one / 1e6)
    for i in range(100):
        bound.step(i)
        assert bound.kept._bytes() <= 3.5 * one
    assert bound.belt.rollback() > 0
    none = Training(megabytes=0.0)
    for i in range(40):
        none.step(i)
    with pytest.raises(UsageError):
        none.belt.rollback()


def test_taking_snapshots_changes_nothing():
    """The numbers are those of a training without, and no hook of ours lies on the model, which can be copied."""
    training = Training()
    losses = [training.step(i) for i in range(30)]
    assert training.kept._certified
    copy.deepcopy(training.model)
    assert not training.model._forward_pre_hooks
    plain = Training()
    plain.kept.release()
    assert [plain.step(i) for i in range(30)] == losses
    assert not plain.kept._fresh


def test_what_cannot_be_asked_for_is_said():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="give fasten the model"):
        gradbelt.fasten(None, optimizer, snapshots=10)
    with pytest.raises(UsageError, match="at least 1"):
        Snapshots(0)
    with pytest.raises(UsageError, match="snapshots=100"):
        gradbelt.fasten(model, optimizer).rollback()
