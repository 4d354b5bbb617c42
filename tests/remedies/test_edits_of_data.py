"""Edits of what a run was seen to do: they cure as the trial did, in scripts of many shapes, and nowhere guess."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.remedies.test_edits import apply, changed, diff_of, sites

from gradbelt.blackbox import load_run
from gradbelt.remedies.edits import patches
from gradbelt.remedies.edits.acted import Deed, Way

# ----------------------------------------------------------------------------------------------------- as the trial did

HOLES = """\
import argparse
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def traced(function):
    def inner(*args):
        return function(*args)
    return inner

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, 1)

    @traced
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=16)
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(240, 6)
    y = x @ torch.randn(6, 1)
    x[torch.rand(240, 6) < 0.02] = float("nan")
    y[7] = float("inf")
    net = Net(args.width)
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    loader, criterion = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True), nn.MSELoss()
    for epoch in range(4):
        for xb, yb in loader:
            opt.zero_grad()
            loss = criterion(net(xb), yb)
            loss.backward()
            opt.step()
    print(loss.item())

if __name__ == "__main__":
    main()
"""
BY_HAND_HOLES = """\
import torch
torch.manual_seed(0)
x, w, b = torch.randn(64, 4), torch.zeros(4, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
y = x.sum(1, keepdim=True)
x[3, 2] = float("nan")
for step in range(30):
    loss = (((x @ w) + b - y) ** 2).mean()
    loss.backward()
    with torch.no_grad():
        for p in (w, b):
            p -= 0.1 * p.grad
            p.grad = None
print(loss.item())
"""
TABLE = """\
import torch
torch.manual_seed(0)
x = torch.randn(128, 3) * torch.tensor([1.0, 50.0, 3000.0]) + torch.tensor([0.0, 100.0, -2e4])
y = ((x[:, :1] + x[:, 1:2] / 50) > 2).float()
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(60):
    out = model(x)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(out, y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
with torch.no_grad():
    print(torch.nn.functional.binary_cross_entropy_with_logits(model(x[:64]), y[:64]).item())
"""
IMAGES = """\
import torch, torch.nn as nn
import torch.nn.functional as F
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3); self.out = nn.Linear(4 * 36, 2)
    def forward(self, image):
        return self.out(F.relu(self.conv(image)).flatten(1))
x = torch.rand(96, 2, 8, 8) * 255
y = (x[:, 0].mean((1, 2)) > 127).long()
net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
for step in range(30):
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
"""
TARGETS = """\
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(96, 4)
y = 500.0 - 200.0 * x.sum(1, keepdim=True)
net, criterion = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), nn.MSELoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
for step in range(80):
    optimizer.zero_grad()
    loss = criterion(net(x), y)
    loss.backward()
    optimizer.step()
with torch.no_grad():
    print(criterion(net(x[:32]), y[:32]).item(), loss.item())
"""
SQUARES = TARGETS.replace("criterion(net(x), y)", "((net(x) - y) ** 2).mean()").replace(
    "criterion(net(x[:32]), y[:32])", "(net(x[:32]) - y[:32]).abs().mean()"
)
OUTLIER = """\
import torch
def batches(n):
    g = torch.Generator().manual_seed(1)
    for i in range(n):
        x = torch.randn(16, 4, generator=g)
        if i % 10 == 8:
            x[2, 1] = 1e4
        yield x, x.sum(1, keepdim=True).clamp(-9, 9)
def train(model, optimizer):
    for x, y in batches(50):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
print(train(model, optimizer).item())
"""
SCALED = """\
import argparse, torch
parser = argparse.ArgumentParser()
parser.add_argument("--loss-scale", type=float, default=2.0 ** 17, help="static")
args = parser.parse_args()
torch.manual_seed(0)
x = torch.randn(64, 8).half()
y = x.sum(1, keepdim=True)
model = torch.nn.Linear(8, 1).half()
copies = [p.detach().float().requires_grad_() for p in model.parameters()]
optimizer = torch.optim.SGD(copies, lr=0.05)
for step in range(20):
    loss = (model(x) - y).float().square().mean()
    model.zero_grad()
    (loss * args.loss_scale).backward()
    for p, copy in zip(model.parameters(), copies):
        copy.grad = p.grad.float() / args.loss_scale
    optimizer.step()
    with torch.no_grad():
        for p, copy in zip(model.parameters(), copies):
            p.copy_(copy)
print(loss.item())
"""
SCALER = """\
import torch
torch.manual_seed(0)
x = torch.randn(64, 8)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=5)
for step in range(20):
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer); scaler.update()
print(loss.item(), scaler.get_scale())
"""
CELLS = """\
import torch
from torch import nn
torch.manual_seed(0)
cell, out = nn.LSTMCell(3, 8), nn.Linear(8, 1)
optimizer = torch.optim.SGD([*cell.parameters(), *out.parameters()], lr=0.3)
for step in range(12):
    x = torch.randn(8, 30, 3)
    state, seen = (torch.zeros(8, 8), torch.zeros(8, 8)), []
    for now in x.unbind(1):
        state = cell(now, state)
        seen.append(state[0])
    loss = (out(torch.stack(seen, 1)) - x[:, :, :1]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
"""
LAYER = """\
import torch
from torch import nn
torch.manual_seed(0)
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 8), nn.Linear(8, 1)
    def forward(self, x, h):
        y, h = self.rnn(x, h)
        return self.out(y), h
model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
for step in range(12):
    x = torch.randn(30, 8, 3)
    y, (h, c) = model(x, (torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)))
    loss = (y - x[:, :, :1]).square().mean() + 0.1 * h.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
"""
SATURATED = """\
import torch
import torch.nn as nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid())
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        self.last = nn.Sigmoid()
    def forward(self, x):
        h = torch.tanh(self.a(self.first(x)))
        return self.last(self.c(self.b(h).tanh()))
x = torch.randn(64, 8) * 3
y = (x[:, :1] * x[:, 1:2] > 0).float()
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for step in range(200):
    loss = nn.functional.binary_cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
"""
LARGE = """\
import torch
torch.manual_seed(0)
x = torch.randn(64, 8)
y = x[:, :1] - x[:, 1:2]
body = [torch.nn.Linear(8, 32), torch.nn.ReLU()]
for _ in range(3):
    body += [torch.nn.Linear(32, 32), torch.nn.ReLU()]
def train(net, steps=60):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for step in range(steps):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
model = torch.nn.Sequential(*body, torch.nn.Linear(32, 1))
for layer in body[::2]:
    layer.weight.data *= 9
print(train(model))
"""
UNITS = LARGE.replace("lr=0.05", "lr=0.2").replace("*= 9", "*= 2")

EXACT, CLOSE = 0.0, 2e-3
CURED = None  # drawn by other random numbers: both end at less than a third of the bare script's loss
CURES = {
    "holes": ("impute_data", HOLES, EXACT),
    "holes_by_hand": ("impute_data", BY_HAND_HOLES, EXACT),
    "table": ("normalise_input", TABLE, CLOSE),
    "images": ("normalise_input", IMAGES, CLOSE),
    "targets": ("normalise_target", TARGETS, CLOSE),
    "squares": ("normalise_target", SQUARES, CLOSE),
    "outlier": ("skip_batch", OUTLIER, EXACT),
    "scaled": ("loss_scale", SCALED, EXACT),
    "scaler": ("loss_scale", SCALER, EXACT),
    "cells": ("truncated_bptt=7", CELLS, EXACT),
    "layer": ("truncated_bptt=7", LAYER, EXACT),
    "saturated": ("activation_swap", SATURATED, CURED),
    "large": ("lsuv", LARGE, CURED),
    "units": ("agc", UNITS, EXACT),
    "pair": ("normalise_input+normalise_target+clip_norm=0.5", TARGETS.replace("(96, 4)", "(96, 4) * 9"), CLOSE),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CURES)
def test_the_patched_script_ends_where_the_trial_did(name, tmp_path):
    """What it prints last, bit for bit where edit and intervention are the same mathematics; and not as it did bare."""
    remedy, text, tolerance = CURES[name]
    (tmp_path / "train.py").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return [float(word) for word in done.stdout.split()]

    bare = run("train.py")
    under = run("-m", "gradbelt", "run", "--watch-only", "--seed", "1", "--out", "run", "--with", remedy, "train.py")
    diff = patches(load_run(tmp_path / "run"))(())
    assert diff is not None
    apply(tmp_path, diff)
    edited = run("train.py")
    if tolerance is CURED:
        assert not bare[-1] < 3 * max(edited[-1], under[-1])
        return
    assert edited == pytest.approx(under, rel=tolerance, abs=1e-12)
    assert bare != pytest.approx(under, rel=max(tolerance, 1e-3)), "the remedy changes nothing here"


# --------------------------------------------------------------------------------------------------------- what is said


def way(text, code, place=0, *, direct=False):
    """The expression `code`, which stands once in the text."""
    assert text.count(code) == 1
    row, column = text[: text.index(code)].count("\n"), text.index(code) - text.rfind("\n", 0, text.index(code)) - 1
    lines = code.split("\n")
    last = len(lines[-1].encode()) + (column if len(lines) == 1 else 0)
    return Way((row + 1, column, row + len(lines), last), place, direct)


def seen(text, remedy, what, code, place=0, *, direct=False, **facts):
    row = text[: text.index(code)].count("\n") + 1
    return replace(sites(text), deeds=(Deed(remedy, what, row, (way(text, code, place, direct=direct),), facts),))


def lines_of(folder, text, remedies, found):
    diff = diff_of(folder, text, remedies, found)
    return None if diff is None else changed(text, apply(folder, diff))


PLAIN = """\
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(10):
    x = torch.randn(8, 4)
    loss = torch.nn.functional.mse_loss(model(x), x[:, :1])  # ä
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
FILLED = "+    loss = torch.nn.functional.mse_loss(model(torch.where(finite, x, means)), x[:, :1])  # ä\n"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("indent", ["    ", "\t"])
def test_every_kind_of_text_keeps_its_bytes(end, mark, indent, tmp_path):
    """Windows newlines, a byte-order mark, tabs, no newline at the end."""
    text = PLAIN.replace("    ", indent)
    found = seen(text, "impute_data", "inputs filled", "model(x)", dims=2)
    assert lines_of(tmp_path, mark + text.replace("\n", end).removesuffix(end), "impute_data", found) == (
        "-    loss = torch.nn.functional.mse_loss(model(x), x[:, :1])  # ä\n"
        "+    finite = torch.isfinite(x)\n"
        "+    means = torch.where(finite, x, 0.0).sum(0) / finite.sum(0).clamp_min(1)\n" + FILLED
    ).replace("    ", indent).replace("\n", end)


def test_columns_behind_letters_of_several_bytes_are_found(tmp_path):
    text = PLAIN.replace("model(x)", 'dict(ü=model(x))["ü"]')
    found = seen(text, "impute_data", "inputs filled", "model(x)", dims=2)
    span = found.deeds[0].ways[0].span
    shifted = (span[0], span[1] + 1, span[2], span[3] + 1)  # bytes: the ü before it has two
    deed = replace(found.deeds[0], ways=(Way(shifted, 0, False),))
    lines = lines_of(tmp_path, text, "impute_data", replace(found, deeds=(deed,)))
    assert "ü=model(torch.where(finite, x, means))" in lines


def test_edits_of_two_remedies_are_one_diff(tmp_path):
    found = seen(PLAIN, "normalise_input", "inputs standardised", "model(x)", mean=[1.5], std=[2.0], axis=None)
    assert lines_of(tmp_path, PLAIN, "normalise_input+clip_norm=1.0+lower_lr=0.1", found) == (
        "-optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "+optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "-    loss = torch.nn.functional.mse_loss(model(x), x[:, :1])  # ä\n"
        "+    loss = torch.nn.functional.mse_loss(model(((x - 1.5) / 2).clamp(-10, 10)), x[:, :1])  # ä\n"
        "+    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
    )


def test_a_target_is_put_on_its_scale_and_the_gradient_back(tmp_path):
    facts = {"mean": [-3.0], "std": [4.0], "axis": -1, "power": 2, "trained": True}
    code = "torch.nn.functional.mse_loss(model(x), x[:, :1])"
    assert lines_of(tmp_path, PLAIN, "normalise_target", seen(PLAIN, "normalise_target", "t", code, **facts)) == (
        "-    loss = torch.nn.functional.mse_loss(model(x), x[:, :1])  # ä\n"
        "+    loss = torch.nn.functional.mse_loss(model(x) * 4 - 3, x[:, :1])  # ä\n"
        "-    loss.backward()\n+    (loss / 16).backward()\n"
    )


@pytest.mark.parametrize(
    ("remedy", "old", "new", "code", "facts"),
    [
        ("impute_data", "model(x)", "model(next(x))", "model(next(x))", {"dims": 2}),  # would take two of them
        ("impute_data", "model(x)", "model(x)", "model(x)", {"dims": 0}),
        ("impute_data", "model(x)", "[model(x) for _ in x][0]", "model(x)", {"dims": 2}),
        ("impute_data", "model(x)", "model(*x)", "model(*x)", {"dims": 2}),
        ("normalise_input", "model(x)", "model(x)", "model(x)", {}),  # several sets of numbers
        ("normalise_target", "x[:, :1])", "x[:, :1]) + model.weight.sum()", "model(x)",
         {"mean": [1.0], "std": [2.0], "power": 2, "trained": True}),
        ("normalise_target", "model(x)", "model(x)", "model(x)",
         {"mean": [1.0], "std": [2.0], "power": None, "trained": True}),
        ("skip_batch", "    optimizer.step()", "    x = None; optimizer.step()", "model(x)", {"limit": 3.0}),
        ("skip_batch", "model(x)", "model(x)", "model(x)", {"limit": None}),
        ("truncated_bptt", "model(x)", "model(x)", "model(x)", {"kind": "linear"}),
    ],
)  # fmt: skip
def test_where_the_script_does_not_allow_a_right_edit_there_is_none(remedy, old, new, code, facts, tmp_path):
    text = PLAIN.replace(old, new)
    what = "cut in a loop" if remedy == "truncated_bptt" else "w"
    assert lines_of(tmp_path, text, remedy, seen(text, remedy, what, code, **facts)) is None
    deed = Deed(remedy, what, 7, (Way(None, 0, False),), facts)  # nor where the line lies in another file
    assert lines_of(tmp_path, PLAIN, remedy, replace(sites(PLAIN), deeds=(deed,))) is None


def test_a_tensor_that_is_changed_on_its_way_is_not_edited(tmp_path):
    """`model` flattens it first, say: the columns are others than those of what it is given."""
    found = seen(PLAIN, "normalise_input", "w", "model(x)", None, mean=[1.0], std=[2.0], axis=None)
    assert lines_of(tmp_path, PLAIN, "normalise_input", found) is None
