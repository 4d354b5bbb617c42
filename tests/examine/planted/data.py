"""Faults of the data: every operation is sound, what it is given is not."""

import torch
import torch.nn.functional as F
from tests.examine.planted import field
from tests.examine.planted.field import batch, fault, steps
from tests.examine.planted.forward import linear
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def table(value):
    """Rows of all batches of 8; row 5 of the batch at BAD holds `value` in column 2."""
    rows = torch.cat([batch(step) for step in range(steps())])
    rows.numpy()[8 * field.BAD + 5, 2] = value  # as it comes from a file: no operation of torch writes it
    return rows


def train(net, loader):
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for x, y in loader:  #! data *
        loss = F.mse_loss(net(x), y)  #! data *
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@fault
def an_empty_cell():
    own, net = linear()
    rows = table(float("nan"))
    y = torch.ones(8, 1)

    def loss(step):
        x = rows[8 * step : 8 * step + 8]  #! data *
        return F.mse_loss(net(x), y)  #! data *

    return own, loss


@fault(at=train)
def an_empty_cell_in_a_loader():
    _, net = linear()
    train(net, DataLoader(TensorDataset(table(float("nan")), torch.ones(8 * steps(), 1)), batch_size=8))


@fault
def an_infinite_feature():
    own, net = linear()
    rows = table(float("inf"))

    def loss(step):
        x = rows[torch.arange(8 * step, 8 * step + 8)]  #! data *
        return F.mse_loss(net(x), torch.ones(8, 1))  #! data *

    return own, loss


@fault
def an_empty_target():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    targets = table(float("nan"))

    def loss(step):
        t = targets[8 * step : 8 * step + 8]  #! data *
        return (net(batch(step)) - t).square().mean()  #! data *

    return net.parameters(), loss


# finite, so that nothing but the batches before says that it is wrong


@fault(tensor="input", row=5, value=1e8)
def a_sentinel_in_a_feature():
    own, net = linear()
    rows = table(1e8)
    y = torch.ones(8, 1)
    return own, lambda step: F.mse_loss(net(rows[8 * step : 8 * step + 8]), y)  #! data batch


@fault(tensor="target", row=5, value=-1e7)
def a_placeholder_among_the_targets():
    own, net = linear(4)
    targets = table(-1e7)

    def loss(step):
        error = net(batch(step)) - targets[8 * step : 8 * step + 8]  #! data batch
        return error.pow(2).mean()

    return own, loss


@fault(at=train, tensor="input", row=None, value=1e9)
def one_row_of_a_shuffled_loader():
    """The rows come in any order, so its batch is the one that the sampler drew it for."""
    order = torch.randperm(8 * steps(), generator=torch.Generator().manual_seed(1)).tolist()
    place, wanted = order.index(8 * field.BAD + 5), 8 * field.BAD + 3
    order[place], order[wanted] = order[wanted], order[place]
    _, net = linear()
    data = TensorDataset(table(1e9), torch.ones(8 * steps(), 1))
    train(net, DataLoader(data, batch_size=8, sampler=order))


@fault(tensor="input", row=5, value=-9999.0)
def rows_picked_by_number():
    w = torch.zeros(4, 1, requires_grad=True)
    rows = table(-9999.0)

    def loss(step):
        chosen = torch.arange(8 * step, 8 * step + 8)
        x = rows[chosen]
        return (x @ w - 1).square().mean()  #! data batch

    return [w], loss
