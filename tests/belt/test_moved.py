"""By what share of themselves an update changes the weights: right, on record, and told where it is too much."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
import torch
from torch import nn

from gradbelt._types import Level
from gradbelt.belt.fasten import fasten
from gradbelt.belt.memory import EAGER, RARELY
from gradbelt.blackbox import Writer, load_run
from gradbelt.blackbox.schema import FILENAME


def trained(net, optimizer, steps, *, after=lambda: None):
    """(rows, findings, the share by which each step changed each matrix) of steps on noise."""
    rows, told, shares = [], [], []
    belt = fasten(net, optimizer, clip=None, write=rows.append, tell=told.extend)
    for _ in range(steps):
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.zero_grad()
        belt.see((net(torch.randn(8, net[0].in_features)) - torch.randn(8, 1)).square().mean()).backward()
        optimizer.step()
        pairs = zip(net.parameters(), before, strict=True)
        shares.append([float((p.detach() - b).norm() / b.norm()) if p.dim() > 1 else np.nan for p, b in pairs])
        after()
    belt.release()
    return rows, told, shares


@pytest.mark.parametrize(("width", "near"), [(20, 1e-5), (300, 0.5)])
def test_it_is_what_the_whole_matrices_say(width, near):
    """Small ones are taken whole, large ones by a few hundred numbers; told in the row of the step that follows."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    rows, _, shares = trained(net, torch.optim.Adam(net.parameters(), lr=1e-2), RARELY + 5)
    seen = [row.step for row in rows if row.moved is not None]
    assert seen == [*range(1, EAGER + 1), RARELY + 1]
    for step in seen:
        assert rows[step].moved == pytest.approx(shares[step - 1], rel=near, nan_ok=True)


def test_an_update_that_moves_nothing_is_none():
    net = nn.Sequential(nn.Linear(4, 1))
    rows, _, _ = trained(net, torch.optim.SGD(net.parameters(), lr=0.0), 4)
    assert all(row.moved is None for row in rows)


def test_weights_that_each_step_throws_away_are_told_of():
    """Adam at a rate of one, on weights that the script keeps at norm one: no gradient and no weight grows."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 1, bias=False))

    def renormed():
        for parameter in net.parameters():
            parameter.data /= parameter.data.norm()

    _, told, _ = trained(net, torch.optim.Adam(net.parameters(), lr=1.0), 80, after=renormed)
    updates = [each for each in told if each.shape == "updates"]
    assert [each.level for each in updates] == [Level.WATCH]
    assert updates[0].value > 0.3


def test_it_is_kept_on_disk_and_a_file_that_has_none_of_it_is_read(tmp_path):
    net = nn.Sequential(nn.Linear(4, 1))
    rows, _, _ = trained(net, torch.optim.SGD(net.parameters(), lr=0.1), 3)
    writer = Writer(tmp_path, {}, warn=print)
    for row in rows:
        writer.step(row)
    writer.close()
    first, second, _ = load_run(tmp_path).steps
    assert first.moved is None
    np.testing.assert_array_equal(second.moved, rows[1].moved)
    with sqlite3.connect(tmp_path / FILENAME) as connection:
        connection.execute("ALTER TABLE steps RENAME COLUMN moved TO something_newer")
    assert [row.moved for row in load_run(tmp_path).steps] == [None] * 3
