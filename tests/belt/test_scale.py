"""The loss scaler's scale is on record, and a scaler that finds none is told of while the run goes on."""

from __future__ import annotations

import pytest
import torch

from gradbelt._types import STREAK, Level
from gradbelt.belt.fasten import fasten
from gradbelt.blackbox import Writer, load_run


class Training:
    """A line under a loss scaler; `overflows` says at which steps its gradient is inf."""

    def __init__(self, *, fused=False, scale=2.0**16, enabled=True, **options):
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, fused=fused)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)
        self.told, self.rows = [], []
        self.belt = fasten(
            self.model, self.optimizer, clip=None, tell=self.told.extend, write=self.rows.append, scaler=self.scaler,
            **options,
        )  # fmt: skip

    def run(self, steps, overflows=lambda step: False):
        for step in range(steps):
            self.optimizer.zero_grad()
            loss = self.belt.see(self.model(torch.ones(8, 4)).square().mean())
            self.scaler.scale(loss * (torch.inf if overflows(step) else 1.0)).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return self


@pytest.mark.parametrize("fused", [False, True])
def test_every_row_has_the_scale_it_was_made_under_and_keeps_it_on_disk(fused, tmp_path):
    run = Training(fused=fused).run(6, overflows=lambda step: step == 2)
    scales = [row.scale for row in run.rows]
    assert scales == [2.0**16] * 2 + [2.0**15] * 3
    writer = Writer(tmp_path, {}, warn=print)
    for row in run.rows:
        writer.step(row)
    writer.close()
    assert [row.scale for row in load_run(tmp_path).steps] == scales
    assert run.told == []


def test_without_a_scaler_there_is_no_scale():
    model = torch.nn.Linear(4, 1)
    optimizer, rows = torch.optim.SGD(model.parameters(), lr=1e-3), []
    with fasten(model, optimizer, clip=None, write=rows.append):
        model(torch.ones(8, 4)).sum().backward()
        optimizer.step()
    assert rows[0].scale is None


def test_a_scaler_that_is_switched_off_has_no_scale():
    assert [row.scale for row in Training(enabled=False).run(3).rows] == [None] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_most_steps_left_out_is_told_while_it_happens(fused):
    """Two of three overflow from step 60 on; the scale has fallen 256 times with the twelfth attempt after that."""
    run = Training(fused=fused).run(90, overflows=lambda step: step >= 60 and step % 3 != 0)
    (finding,) = [finding for finding in run.told if finding.shape == "scale"]
    assert (finding.kind, finding.level) == ("inf_grad", Level.WARN)
    assert finding.step == run.rows[finding.step].step
    assert run.rows[finding.step].scale == 2.0**8


@pytest.mark.parametrize("wait", [True, False])
def test_a_scaler_under_which_no_step_takes_place_is_told_of_once(wait):
    """The belt sees them under a fused optimizer, which is what leaves the step out."""
    run = Training(fused=True, wait=wait).run(5).run(3 * STREAK, overflows=lambda step: True)
    run.belt.catch_up()
    said = [finding for finding in run.told if finding.kind == "inf_grad"]
    assert [(finding.level, finding.step) for finding in said] == [(Level.ALARM, 5)]
