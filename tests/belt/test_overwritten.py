"""A nan that is written over between the loss and its backward pass is told of, once, at the first step."""

from __future__ import annotations

import warnings

import pytest
import torch

from gradbelt.belt.fasten import fasten
from gradbelt.errors import BuckleWarning


def found(loss_of):
    """The kinds of misfit in a training whose loss is made of the squares of a line's errors."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with fasten(model, optimizer, clip=None) as belt, warnings.catch_warnings():
        warnings.simplefilter("ignore", BuckleWarning)
        for _ in range(4):
            optimizer.zero_grad()
            belt.see(loss_of(model(torch.randn(8, 4)).square())).backward()
            optimizer.step()
        return [each.kind for each in belt.buckle.found]


@pytest.mark.parametrize("loss_of", [
    torch.nanmean,
    lambda each: torch.nan_to_num(each.mean()),
    lambda each: torch.nan_to_num(each).mean(),
    lambda each: 0.5 * torch.nan_to_num(each.mean()) + 1e-3 * each.mean(),
])  # fmt: skip
def test_a_loss_whose_nan_would_be_written_over(loss_of):
    assert found(loss_of) == ["nan_overwritten"]


@pytest.mark.parametrize("loss_of", [
    torch.mean,
    lambda each: torch.nan_to_num(each).sqrt().mean(),  # within the model: its own affair
    lambda each: torch.where(each > 0, each, 0.0).mean(),
    lambda each: each.mean() + torch.nan_to_num(each.mean().detach()),
])  # fmt: skip
def test_a_loss_that_would_be_nan(loss_of):
    assert found(loss_of) == []
