"""Laws of remedies: at its neutral value none changes a bit, alone or beside others; their order does not matter."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from gradbelt.blackbox import load_run
from gradbelt.remedies import REMEDIES, parse
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.starter import Starter

NEUTRAL = {
    "agc": 1e9, "clip_norm": 1e30, "clip_value": 1e30, "eps_in_op": 1e-30, "higher_eps": 1e-30, "loss_scale": 1e15,
    "lower_beta2": 0.999999, "lower_lr": 1.0, "logit_scaling": 1e9, "skip_batch": 1e15, "skip_spike": 1e30,
    "truncated_bptt": 1e6, "warmup": 1.0,
}  # fmt: skip
"""Remedy -> the value at which it does nothing. The others find out by themselves that there is nothing to do."""

ACTIVE = (
    "clip_norm=0.05", "lower_lr=0.5", "higher_eps=0.1", "he_init", "norm_layer", "activation_swap", "normalise_input",
    "truncated_bptt=3",
)  # fmt: skip
"""One of each kind, each with something to do where there is no checkpoint."""

SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.tail = nn.Conv1d(4, 8, 3), nn.GRU(8, 8), nn.RNNCell(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 3))

    def forward(self, x):
        h, _ = self.rnn(torch.tanh(self.conv(x.transpose(1, 2))).permute(2, 0, 1))
        state = torch.zeros(len(x), 8)
        for inp in h:
            state = self.tail(inp, state)
        return self.mlp(state)


model = Net()
{weights}
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
x, y = {scale} * torch.randn(64, 12, 4), torch.randint(0, 3, (64,))
for step in range(12):
    i = torch.randint(0, 64, (16,))
    loss = nn.functional.cross_entropy(model(x[i]), y[i])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item(), sum(p.double().abs().sum().item() for p in model.parameters()), torch.rand(1).item())
"""
SCRIPTS = {
    "saved": SCRIPT.format(weights="torch.save(model.state_dict(), sys.argv[1])", scale=1),
    "loaded": SCRIPT.format(weights="model.load_state_dict(torch.load(sys.argv[1]))", scale=1),
    "fresh": SCRIPT.format(weights="", scale=100),
}


def neutral(name):
    return f"{name}={NEUTRAL[name]!r}" if name in NEUTRAL else name


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """play(script, remedies) -> what it printed; each is played once, and nothing of ours fails."""
    home = tmp_path_factory.mktemp("laws")
    for name, text in SCRIPTS.items():
        (home / f"{name}.py").write_text(text)

    def planned(script, *remedies):
        where = {"script": str(home / f"{script}.py"), "argv": (str(home / "weights.pt"),)}
        folder = home / str(played.cache_info().misses)
        return Plan(**where, folder=str(folder), seed=0, remedies=remedies, quiet=True)

    @functools.cache
    def played(script, *remedies):
        plan = planned(script, *remedies)
        assert starter.start(plan).wait() == 0
        record = load_run(Path(plan.folder))
        assert [e.message for e in record.events if e.kind in ("remedy_failed", "belt_failed")] == []
        return (Path(plan.folder) / "stdout.log").read_text()

    starter = Starter(planned("saved"), {"OMP_NUM_THREADS": "1"})
    played("saved")
    yield played
    starter.close()


def test_every_value_is_one_that_its_remedy_takes():
    assert all(parse(neutral(name)) for name in REMEDIES)
    assert set(NEUTRAL) <= {name for name, kind in REMEDIES.items() if hasattr(kind(), "value")}


@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_a_remedy_of_neutral_value_changes_not_a_bit(name, play):
    """Neither the loss nor the weights nor the next random number."""
    assert play("loaded", neutral(name)) == play("loaded")


def test_nor_do_all_of_them_at_once(play):
    assert play("loaded", *map(neutral, sorted(REMEDIES))) == play("loaded")


@pytest.mark.parametrize("active", ACTIVE)
def test_beside_those_of_neutral_value_a_remedy_does_what_it_does_alone(active, play):
    """Whichever are put on first."""
    others = [neutral(name) for name in sorted(NEUTRAL) if name != active.partition("=")[0]]
    alone = play("fresh", active)
    assert alone != play("fresh")
    assert play("fresh", active, *others) == play("fresh", *others, active) == alone


def test_in_any_order_they_do_the_same_and_each_of_them_counts(play):
    together = play("fresh", *ACTIVE)
    assert play("fresh", *reversed(ACTIVE)) == together
    for left_out in ACTIVE:
        assert play("fresh", *(each for each in ACTIVE if each != left_out)) != together, left_out
