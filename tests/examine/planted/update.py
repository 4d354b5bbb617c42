"""Faults of the update: every operation of the model was sound, the arithmetic on weights or gradients was not."""

import torch
from tests.examine.planted.field import batch, fault, off, steps
from tests.examine.planted.forward import linear
from torch import nn


def two():
    """A layer whose second output is never used: its gradient is exactly zero."""
    net = nn.Linear(4, 2)
    return net, lambda step: net(batch(step))[:, 0].square().mean()


@fault
def adam_without_eps():
    net, loss = two()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, eps=0.0)
    for step in range(steps()):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()  #! update addcdiv|div
        net(batch(step)).sum().item()


@fault
def rmsprop_without_eps():
    net, loss = two()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=0.01, eps=0.0)
    for step in range(steps()):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()  #! update addcdiv|div


@fault
def a_schedule_that_divides_by_zero():
    own, net = linear()
    optimizer = torch.optim.SGD(own, lr=0.01)
    for step in range(steps()):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 if off(step) else float("inf")
        loss = net(batch(step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  #! update add


@fault
def an_infinite_decay():
    own, net = linear()
    optimizer = torch.optim.AdamW(own, lr=0.01)
    for step in range(steps()):
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.01 if off(step) else float("inf")
        loss = net(batch(step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  #! update mul


@fault
def gradient_divided_by_its_norm():
    own, net = linear()
    optimizer = torch.optim.SGD(own, lr=0.01)
    for step in range(steps()):
        loss = net(batch(step)).square().mean() * off(step)
        optimizer.zero_grad()
        loss.backward()
        for p in own:
            p.grad /= p.grad.norm()  #! update div
        optimizer.step()


@fault
def weights_divided_by_their_norm():
    net = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(steps()):
        loss = net(batch(step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            net.weight[1] *= off(step)
            net.weight /= net.weight.norm(dim=1, keepdim=True)  #! update div


@fault
def an_update_by_hand():
    w = torch.randn(4, 1, requires_grad=True)
    for step in range(steps()):
        loss = (batch(step) @ w).square().mean() * off(step)
        loss.backward()
        with torch.no_grad():
            length = w.grad.square().sum().sqrt()
            w -= 0.01 * w.grad / length  #! update div
            w.grad.zero_()


class Sign(torch.optim.Optimizer):
    """An optimizer of the user's own."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(0.01 * p.grad / p.grad.abs())  #! update div


@fault(at=Sign)
def an_optimizer_of_ones_own():
    net, loss = two()
    optimizer = Sign(net.parameters())
    for step in range(steps()):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
