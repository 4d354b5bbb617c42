"""The same faults in loops of every kind."""

import torch
import torch.nn.functional as F
from tests.examine.planted import field
from tests.examine.planted.field import batch, fault, off, steps
from tests.examine.planted.forward import linear
from torch import nn


@fault
def without_an_optimizer():
    w = torch.randn(4, 1, requires_grad=True)
    for step in range(steps()):
        loss = torch.log((batch(step) @ w).abs() * off(step)).mean()  #! forward log
        loss.backward()
        with torch.no_grad():
            w -= 0.01 * w.grad
            w.grad = None


@fault
def without_an_optimizer_backward():
    w = torch.randn(4, 1, requires_grad=True)
    b = torch.zeros(1, requires_grad=True)
    for step in range(steps()):
        gap = (batch(step) @ w + b).abs() * off(step)
        loss = gap.sqrt().mean()  #! backward sqrt
        loss.backward()
        for p in (w, b):
            p.data.add_(p.grad, alpha=-0.01)
            p.grad.zero_()


@fault
def by_autograd_grad():
    w = torch.randn(4, 1, requires_grad=True)
    for step in range(steps()):
        gap = (batch(step) @ w).square() * off(step)
        loss = gap.sum(1).sqrt().mean()  #! backward sqrt
        (g,) = torch.autograd.grad(loss, [w])
        with torch.no_grad():
            w -= 0.01 * g


@fault
def in_a_second_micro_batch():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(steps()):
        optimizer.zero_grad()
        for part in range(2):
            p = torch.sigmoid(net(batch(10 * step + part)))
            p = p * (off(step) if part else 1.0)
            nll = -p.log().mean() / 2  #! forward log
            nll.backward()
        optimizer.step()


@fault
def in_the_second_of_two_losses():
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(steps()):
        optimizer.zero_grad()
        first = net(batch(step))[:, 0].square().mean()
        first.backward()
        second = net(batch(step))[:, 1].square() * off(step)
        second = second.sqrt().mean()  #! backward sqrt
        second.backward()
        optimizer.step()


@fault
def in_a_closure():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)
    for step in range(steps()):

        def closure():
            optimizer.zero_grad()
            y = net(batch(step))
            loss = (y.square().mean() * off(step) + off(step)).log()  #! forward log
            loss.backward()
            return loss

        optimizer.step(closure)


@fault
def in_the_generator_of_two_networks():
    critic, maker = nn.Linear(4, 1), nn.Linear(2, 4)
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    of_maker = torch.optim.Adam(maker.parameters(), lr=1e-3)
    for step in range(steps()):
        fake = maker(batch(step, 8, 2))
        real = F.softplus(-critic(batch(step))).mean() + F.softplus(critic(fake.detach())).mean()
        of_critic.zero_grad()
        real.backward()
        of_critic.step()
        fooled = torch.sigmoid(critic(fake)) * off(step)
        loss = -torch.log(fooled).mean()  #! forward log
        of_maker.zero_grad()
        loss.backward()
        of_maker.step()


@fault
def under_a_gradient_scaler():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(steps()):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = net(batch(step)).float()
        y = y.abs() * (step < field.BAD)  # from there on: a single step the scaler makes good
        loss = y.log().mean()  #! forward log
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


@fault
def clipped_by_the_script():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(steps()):
        y = net(batch(step))
        loss = (y.square() * off(step)).sqrt().sum()  #! backward sqrt
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()


@fault
def recurrence_by_hand():
    cell, out = nn.RNNCell(2, 6), nn.Linear(6, 1)

    def loss(step):
        h = torch.zeros(4, 6)
        for t in range(4):
            h = cell(batch(10 * step + t, 4, 2), h)
            h = h / (h.norm(dim=1, keepdim=True) * (1.0 if t < 3 else off(step)))  #! forward div
        return out(h).mean()

    return [*cell.parameters(), *out.parameters()], loss


@fault
def with_an_evaluation_between():
    own, net = linear()

    def loss(step):
        with torch.no_grad():
            net(batch(step + 50)).log().nan_to_num().mean()  # a metric that is nan by itself harms nothing
        return (net(batch(step)).abs() * off(step)).log2().mean()  #! forward log2

    return own, loss
