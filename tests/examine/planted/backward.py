"""Faults of derivatives: the loss is finite, its gradient is not."""

import torch
import torch.nn.functional as F
from tests.examine.planted.elsewhere import spread
from tests.examine.planted.field import batch, fault, off
from tests.examine.planted.forward import linear
from torch import nn
from torch.utils.checkpoint import checkpoint


@fault
def root_at_zero():
    own, net = linear()

    def loss(step):
        gap = net(batch(step)).abs() * off(step)
        return gap.sqrt().mean()  #! backward sqrt

    return own, loss


@fault
def distance_of_equal_points():
    own, net = linear(3)

    def loss(step):
        u, v = net(batch(step)), net(batch(step + 50 * int(off(step))))
        square = ((u - v) ** 2).sum(1)
        distance = torch.sqrt(square)  #! backward sqrt
        return distance.mean()

    return own, loss


@fault
def where_around_a_log():
    own, net = linear()

    def loss(step):
        p = F.relu(net(batch(step)) + 5) * off(step)
        entropy = torch.where(p > 0, p.log(), torch.zeros_like(p))  #! backward log
        return entropy.mean()

    return own, loss


@fault
def where_around_a_root():
    own, net = linear()

    def loss(step):
        x = net(batch(step)).square() * off(step)
        root = x.sqrt()  #! backward sqrt
        safe = torch.where(x > 0, root, torch.zeros_like(x))
        return safe.mean()

    return own, loss


@fault
def where_around_an_exp():
    own, net = linear()

    def loss(step):
        x = net(batch(step)) + 100 * (1 - off(step))
        return torch.where(x < 50, x.exp(), x).mean()  #! forward|backward exp  # made forward, arrives backward

    return own, loss


@fault
def where_around_a_division():
    own, net = linear()

    def loss(step):
        below = net(batch(step)).abs() * off(step)
        share = torch.where(below > 0, 1.0 / below, 0.0)  #! forward|backward reciprocal|div|mul
        return share.clamp(max=10.0).mean()

    return own, loss


@fault
def half_a_power_at_zero():
    own, net = linear()

    def loss(step):
        gap = F.softplus(net(batch(step))) * off(step)
        return (gap**0.5).mean()  #! backward pow|sqrt

    return own, loss


@fault
def root_of_an_absolute_value():
    own, net = linear()

    def loss(step):
        x = net(batch(step)) * off(step)
        y = torch.sign(x) * x.abs().pow(0.3)  #! backward pow
        return (y + x).sum()

    return own, loss


@fault
def angle_of_parallel_vectors():
    own, net = linear()

    def loss(step):
        cosine = torch.tanh(net(batch(step)) + 60 * (1 - off(step)))
        angle = torch.arccos(cosine)  #! backward acos
        return angle.mean()

    return own, loss


@fault
def asin_at_minus_one():
    own, net = linear()

    def loss(step):
        sine = torch.tanh(net(batch(step)) - 60 * (1 - off(step)))
        return sine.asin().mean()  #! backward asin

    return own, loss


@fault
def acosh_at_one():
    own, net = linear()

    def loss(step):
        t = 1 + net(batch(step)).square() * off(step)
        return torch.acosh(t).mean()  #! backward acosh

    return own, loss


@fault
def nan_to_num_after_a_log():
    own, net = linear()

    def loss(step):
        p = net(batch(step)).abs() * off(step)
        logp = torch.log(p)  #! backward log
        return torch.nan_to_num(logp, neginf=-20.0).mean()

    return own, loss


@fault
def xlogy_at_zero():
    own, net = linear()

    def loss(step):
        p = F.relu(net(batch(step)) + 5) * off(step)
        return torch.xlogy(p, p).mean()  #! backward xlogy

    return own, loss


@fault
def hypot_at_the_origin():
    own, net = linear(2)

    def loss(step):
        real, imaginary = (net(batch(step)) * off(step)).unbind(1)
        return torch.hypot(real, imaginary).mean()  #! backward hypot

    return own, loss


@fault
def equal_eigenvalues():
    own, net = linear(4)

    def loss(step):
        y = net(batch(step, 4, 4)) * off(step)
        cov = y @ y.T + torch.eye(4)
        values, vectors = torch.linalg.eigh(cov)  #! backward linalg_eigh
        return (values * vectors[0]).sum()

    return own, loss


@fault
def equal_singular_values():
    own, net = linear(4)

    def loss(step):
        y = net(batch(step, 4, 4)) * off(step) + torch.eye(4)
        u, s, _ = torch.linalg.svd(y)  #! backward linalg_svd
        return (u[:, 0] * s).sum()

    return own, loss


@fault(at=spread)
def deviation_from_a_second_file():
    own, net = linear(3)
    return own, lambda step: spread(net(batch(step) * off(step))).sum()


@fault
def loss_scaled_in_half():
    net = nn.Linear(4, 3).half()

    def loss(step):
        y = net(batch(step).abs().half())  #! backward addmm|linear
        return y.float().mean() * (1.0 if off(step) else 9.6e5)  # 4e4 an element: their sum is too large

    return net.parameters(), loss


class SoftSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x / (1 + x.abs())

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        slope = x / x.abs()  #! backward div
        return gradient * slope


@fault(at=SoftSign)
def backward_of_ones_own():
    own, net = linear()
    return own, lambda step: SoftSign.apply(net(batch(step)) * off(step)).mean()


class StraightLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log(x)  #! forward log

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / x.clamp_min(1e-6)


@fault(at=StraightLog)
def forward_of_ones_own():
    own, net = linear()
    return own, lambda step: StraightLog.apply(net(batch(step)).abs() * off(step)).mean()


@fault
def under_a_checkpoint():
    own, net = linear()

    def block(x):
        h = net(x).abs() * off(int(x[0, 0] * 0 + clock[0]))
        return h.sqrt()  #! backward sqrt

    clock = [0]

    def loss(step):
        clock[0] = step
        return checkpoint(block, batch(step), use_reentrant=False).mean()

    return own, loss


@fault
def in_a_tensor_hook():
    own, net = linear()

    def loss(step):
        y = net(batch(step))
        y.register_hook(
            lambda g: g / g.abs().max()  #! backward div
        )
        return y.mean() * off(step)

    return own, loss


@fault
def penalty_on_a_gradient():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(step):
        x = batch(step).requires_grad_()
        (slope,) = torch.autograd.grad((net(x) * off(step)).sum(), x, create_graph=True)
        length = slope.square().sum(1).sqrt()  #! backward sqrt
        return (length - 1).square().mean()

    return net.parameters(), loss


@fault
def derivative_of_a_derivative():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(step):
        x = batch(step).requires_grad_()
        u = net(x).square() * off(step)
        energy = u.pow(0.75).sum()  #! backward pow
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return force.square().mean()

    return net.parameters(), loss
