"""Where the mass of gradients lies: counted right, on record, and told where it is piled at the bound of a clip."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradbelt._types import BINADES, BUCKETS, LOWEST, Level, RunRecord
from gradbelt.belt.fasten import fasten
from gradbelt.belt.judge import replay
from gradbelt.belt.mass import ENOUGH, NUMBERS, sample
from gradbelt.belt.memory import EAGER, EVERY
from gradbelt.blackbox import Writer, load_run
from gradbelt.blackbox.schema import FILENAME
from gradbelt.errors import UnreadableRecord


def regression(dtype=torch.float32):
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).to(dtype)
    return net, lambda: (net(torch.randn(32, 20, dtype=dtype)) - torch.randn(32, 1, dtype=dtype)).square().mean()


def trained(made=regression, steps=60, before=lambda net: None, clip=None, watched=True):
    """(net, rows, findings) of steps of SGD; `before` is what the script does before each."""
    torch.manual_seed(0)
    net, loss = made()
    optimizer, rows, told = torch.optim.SGD(net.parameters(), lr=0.01), [], []
    belt = fasten(net, optimizer, clip=clip, write=rows.append, tell=told.extend) if watched else None
    for _ in range(steps):
        optimizer.zero_grad()
        (belt.see(loss()) if belt else loss()).backward()
        before(net)
        optimizer.step()
    if belt:
        belt.release()
    return net, rows, told


def by_value(bound):
    return lambda net: nn.utils.clip_grad_value_(net.parameters(), bound)


def piles(told):
    return [(each.kind, each.level) for each in told if each.shape == "pile"]


# ---------------------------------------------------------------------------------------------------- what is counted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_numbers_of_a_small_gradient_are_all_counted(dtype):
    """Against a count number by number; of what is 0, nan or inf there is none."""
    torch.manual_seed(0)
    gradient = (torch.randn(10, 15) * torch.logspace(-9, 4, 15)).to(dtype)
    gradient[0, :3] = torch.tensor([0.0, math.nan, -math.inf], dtype=dtype)
    wanted = np.zeros(BUCKETS, int)
    for number in gradient.flatten().tolist():
        if number and math.isfinite(number):
            wanted[min(max((math.floor(math.log2(abs(number))) - LOWEST) // BINADES, 0), BUCKETS - 1)] += 1
    (found,) = sample([gradient])().exponents()
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("size", [1, 254, 255, 256, 509, 511, 512, 70_000])
def test_of_a_large_one_a_byte_counts_what_is_taken(size):
    taken = sample([torch.arange(1.0, size + 1)])()
    assert len(taken.size) == size if size <= NUMBERS else NUMBERS / 3 <= len(taken.size) <= NUMBERS
    assert taken.exponents().sum() == len(taken.size)
    assert taken.size[-1] > 0.98 * size  # up to its end


def test_a_loss_scale_is_divided_out():
    gradient = torch.randn(100)
    np.testing.assert_array_equal(sample([gradient * 2.0**16])().exponents(2.0**16), sample([gradient])().exponents())


def test_each_gradient_keeps_its_place_and_what_has_no_plain_numbers_is_left_out():
    ones = torch.ones(40)
    gradients = [ones.to_sparse(), ones, torch.ones(40, dtype=torch.complex64), torch.zeros(0), 4 * ones[None].mT]
    before = [each.clone() for each in gradients]
    counts = sample(gradients)().exponents()
    assert counts.sum(axis=1).tolist() == [0, 40, 0, 0, 40]
    assert [int(np.argmax(counts[i])) for i in (1, 4)] == [-LOWEST // BINADES, (2 - LOWEST) // BINADES]
    assert all(torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(gradients, before, strict=True))
    assert np.isnan(sample([ones.to_sparse()])().piled()).all()


def clipped(bound, dtype=torch.float32, size=200):
    return torch.randn(size).clamp(-bound, bound).to(dtype)


def test_a_share_at_the_edge_is_the_share_at_the_edge():
    torch.manual_seed(0)
    gradients = [
        clipped(0.5),
        torch.cat([clipped(1.0), torch.zeros(30)]),
        torch.randn(200),
        clipped(0.5, size=ENOUGH - 1),
    ]
    wanted = [float((g[g != 0].abs() == g.abs().max()).double().mean()) for g in gradients[:3]]
    *found, small = sample(gradients)().piled()
    assert found == pytest.approx(wanted)
    assert found[0] > 0.5 and np.isnan(small)


def test_a_gradient_that_lies_wholly_at_a_bound_is_known_by_another_that_does_not():
    assert sample([torch.ones(50), torch.linspace(0.1, 2.0, 50).clamp(max=1.0)])().piled()[0] == 1.0
    assert np.isnan(sample([torch.ones(50), torch.linspace(0.1, 2.0, 50)])().piled()[0])


# -------------------------------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize("bound", [0.01, 0.003, 1e-4])
def test_a_clip_by_value_that_many_numbers_meet_is_told_of_once(bound):
    _, rows, told = trained(before=by_value(bound))
    assert piles(told) == [("grad_wall", Level.WATCH)]
    (finding,) = (each for each in told if each.shape == "pile")
    assert f"{bound:.4g}" in finding.message and finding.where in rows[0].names
    again = [f for _, verdict, _ in replay(RunRecord(folder=Path(), meta={}, steps=tuple(rows))) for f in verdict]
    assert next(each for each in again if each.shape == "pile") == finding


def to_signs(net):
    for each in net.parameters():
        each.grad.sign_()


def coarse(net):
    """Each number becomes a quarter, a half, three quarters or one, as many of each."""
    for each in net.parameters():
        ranks = each.grad.abs().flatten().argsort().argsort().view_as(each.grad)
        each.grad = each.grad.sign() * (1 + ranks * 4 // each.numel()) / 4


HEALTHY = {
    "nothing": {},
    "a bound that hardly any number meets": {"before": by_value(0.3)},
    "clip by norm": {"before": lambda net: nn.utils.clip_grad_norm_(net.parameters(), 0.01)},
    "the belt clips by value, as it was asked to": {"clip": "value:0.003"},
    "signs": {"before": to_signs},
    "few sizes of number": {"before": coarse},
    "bfloat16": {"made": lambda: regression(torch.bfloat16)},
}


@pytest.mark.parametrize("what", HEALTHY)
def test_no_other_gradient_is_taken_for_a_clipped_one(what):
    _, rows, told = trained(**HEALTHY[what])
    assert piles(told) == []
    assert any(row.piled is not None for row in rows)


def two_tables(loss):
    """Two parameters that the loss is a function of number by number."""
    net = nn.ParameterList([torch.randn(20, 20), torch.randn(50)])
    return lambda: (net, lambda: sum(loss(each) for each in net))


class Words(nn.Module):
    """One word at a time, and the net is told yes or no: zeros but in a row, and numbers of the same size in it."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(50, 40), nn.Linear(40, 2)

    def forward(self, word):
        return self.out(self.table(word))


def words():
    net = Words()
    return net, lambda: nn.functional.cross_entropy(net(torch.randint(50, (1,))), torch.randint(2, (1,)))


def one_hot():
    net = nn.Sequential(nn.Linear(200, 64), nn.ReLU(), nn.Linear(64, 2))
    return net, lambda: nn.functional.cross_entropy(net((torch.rand(1, 200) < 0.5).float()), torch.randint(2, (1,)))


@pytest.mark.parametrize(
    "made",
    [two_tables(lambda each: each.abs().sum()), two_tables(torch.sum), two_tables(lambda e: e.clamp(min=0).sum()),
     words, one_hot],
    ids=["L1", "sum", "hinge", "embedding", "one hot"],
)  # fmt: skip
def test_losses_whose_gradients_have_few_sizes_by_nature_are_none(made):
    _, _, told = trained(made)
    assert piles(told) == []


def mixed(dtype, small, scaler=None, steps=12, fused=False):
    """Findings and rows of steps of autocast on a loss that is made small; what float16 makes is cast to float32."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    optimizer, told, rows = torch.optim.SGD(net.parameters(), lr=0.01, fused=fused), [], []
    belt = fasten(net, optimizer, clip=None, tell=told.extend, write=rows.append, scaler=scaler)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            out = net(torch.randn(32, 20)).float()
        scaler.scale(belt.see((out - torch.randn(32, 1)).square().mean() * small)).backward()
        scaler.step(optimizer)
        scaler.update()
    belt.release()
    return told, rows


def test_gradients_that_float16_nearly_loses_are_told_of_once():
    told, rows = mixed(torch.float16, 1e-4)
    assert [(each.kind, each.level, each.shape) for each in told] == [("grad_wall", Level.WATCH, "underflow")]
    zeros = [row.zeros.max() for row in rows if row.zeros is not None]
    assert min(zeros) > 0.02  # as the finding says: smaller ones are 0


@pytest.mark.parametrize(("dtype", "small"), [(torch.float16, 1.0), (torch.bfloat16, 1e-4), (torch.float32, 1e-4)])
def test_gradients_that_keep_their_bits_are_not(dtype, small):
    told, rows = mixed(dtype, small)
    assert told == []
    assert [row.faint is not None for row in rows] == [dtype is torch.float16 and row.piled is not None for row in rows]


def test_nor_is_the_gradient_of_a_mean_over_a_power_of_two():
    """float16 could hold it, and it is as small; but it is float32, of one size."""
    net = nn.ParameterList([torch.randn(2**11, 2**11)])
    _, rows, told = trained(lambda: (net, lambda: net[0].abs().mean()), steps=2)
    assert told == [] and rows[0].faint is None and rows[0].peak == 2.0**-22


def test_nor_are_those_that_a_loss_scale_lifts():
    """Though they are as small afterwards as those without; whether it is divided out before or in a fused step."""
    first = []
    for fused in (False, True):
        told, rows = mixed(torch.float16, 1e-4, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**7), fused=fused)
        assert told == []
        assert all(np.nanmax(row.faint) < 0.2 for row in rows if row.faint is not None)
        first.append(rows[0].faint)
    np.testing.assert_array_equal(*first)
    assert np.nanmax(first) > 0.0


# ----------------------------------------------------------------------------------------------------------- on record


def test_looking_changes_no_bit_of_a_training():
    alone, _, _ = trained(before=by_value(0.01), watched=False)
    seen, rows, _ = trained(before=by_value(0.01))
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), seen.parameters(), strict=True))
    looked = [row.step for row in rows if row.exponents is not None]
    assert {*range(EAGER), *range(EAGER, 60, EVERY)} <= set(looked)
    assert looked == [row.step for row in rows if row.piled is not None]


def test_it_is_kept_on_disk_and_a_file_that_has_none_of_it_is_read(tmp_path):
    _, rows, _ = trained(steps=EAGER + 2, before=by_value(0.01))
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for row in rows:
        writer.step(row)
    writer.close()
    for kept, row in zip(load_run(tmp_path).steps, rows, strict=True):
        np.testing.assert_array_equal(kept.piled, row.piled)
        np.testing.assert_array_equal(kept.exponents, row.exponents)
    with sqlite3.connect(tmp_path / FILENAME) as connection:
        for column in ("piled", "exponents"):
            connection.execute(f"ALTER TABLE steps RENAME COLUMN {column} TO {column}_of_old")
    assert {(row.piled, row.exponents) for row in load_run(tmp_path).steps} == {(None, None)}


def test_a_file_whose_counts_are_damaged_is_said_to_be(tmp_path):
    _, rows, _ = trained(steps=1)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    writer.step(rows[0])
    writer.close()
    with sqlite3.connect(tmp_path / FILENAME) as connection:
        connection.execute("UPDATE steps SET exponents = x'00'")
    with pytest.raises(UnreadableRecord, match="damaged"):
        load_run(tmp_path)


def test_what_is_faint_is_kept_on_disk(tmp_path):
    _, rows = mixed(torch.float16, 1e-4, steps=3)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for row in rows:
        writer.step(row)
    writer.close()
    for kept, row in zip(load_run(tmp_path).steps, rows, strict=True):
        np.testing.assert_array_equal(kept.faint, row.faint)
        assert np.isnan(row.faint[-1]) and np.isfinite(row.faint[0])  # one number says nothing
