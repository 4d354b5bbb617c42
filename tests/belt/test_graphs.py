"""A loop that never lets go of its graphs is told so, on the graph's own evidence."""

import warnings

import pytest
import torch

from gradbelt import fasten
from gradbelt.errors import BuckleWarning


def said(keep, steps=120):
    """The misfits of a small recurrent loop; `keep` is what it holds on to from step to step."""
    torch.manual_seed(0)
    cell = torch.nn.RNNCell(3, 4)
    optimizer = torch.optim.SGD(cell.parameters(), lr=1e-3)
    hidden, total, losses = torch.zeros(2, 4), torch.zeros(()), []
    with warnings.catch_warnings(), fasten(cell, optimizer, clip=None) as belt:
        warnings.simplefilter("ignore", BuckleWarning)
        for step in range(steps):
            if keep != "hidden" or step > 40:  # later it would only get slow
                hidden = hidden.detach()
            hidden = cell(torch.randn(2, 3), hidden)
            loss = belt.see(hidden.square().mean())
            optimizer.zero_grad()
            loss.backward(retain_graph=keep == "hidden", inputs=[cell.bias_ih])
            optimizer.step()
            if keep == "total":
                total = total + loss
            elif keep == "list":
                losses.append(loss)
            elif keep == "epoch":
                total = loss if step % 30 == 0 else total + loss
            else:
                total = total + loss.item()
        return [found.kind for found in belt.buckle.found]


@pytest.mark.parametrize("keep", ["total", "list"])
def test_losses_that_are_kept_are_told(keep):
    assert said(keep) == ["graphs_kept"]


def test_a_loop_that_lets_go_is_left_alone():
    """Also one that adds up the losses of an epoch and begins anew."""
    assert said("number") == said("epoch") == []


def test_a_hidden_state_that_carries_its_graph_along_is_told():
    assert said("hidden") == ["graph_grows"]
