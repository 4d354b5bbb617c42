"""What looks like a fault and is none, before one that is: only the latter may be named."""

import torch
import torch.nn.functional as F
from tests.examine.planted.field import batch, fault, off
from tests.examine.planted.forward import linear


def decoy(disturb):
    """Plants a log of zero behind `disturb(y, step)`, which must stay finite."""

    def planted():
        own, net = linear(6)

        def loss(step):
            y = disturb(net(batch(step)), step)
            return torch.log(y.mean().abs() * off(step))  #! forward log

        return own, loss

    planted.__name__ = disturb.__name__
    return fault(at=decoy)(planted)


@decoy
def a_causal_mask(y, step):
    return y.masked_fill(torch.ones(8, 6).triu(1) > 0, float("-inf")).softmax(1) + y


@decoy
def an_additive_mask(y, step):
    mask = torch.full((6, 6), float("-inf")).triu_(1)
    return ((y.T @ y) + mask).softmax(-1).mean() + y


@decoy
def the_log_of_a_mask(y, step):
    keep = torch.ones(8, 6).tril()
    return (y + keep.log()).softmax(1) + y


@decoy
def partly_masked_logsumexp(y, step):
    return y.masked_fill(torch.ones(8, 6).triu(1) > 0, -torch.inf).logsumexp(1)


@decoy
def a_log_behind_two_wheres(y, step):
    p = F.relu(y)
    safe = torch.where(p > 0, p, torch.ones_like(p))
    return torch.where(p > 0, safe.log(), torch.zeros_like(p)) + y


@decoy
def padding_of_nan(y, step):
    padded = torch.full((8, 9), float("nan"))
    padded[:, :6] = y.detach()
    doubled = padded * 2
    return y + torch.where(torch.isnan(doubled), torch.zeros(()), doubled).sum(1, keepdim=True)


@decoy
def nan_to_num_of_a_ratio(y, step):
    count = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 3.0])
    return y + (count / count).nan_to_num()


@decoy
def infinity_as_first_minimum(y, step):
    best = torch.full((8,), float("inf"))
    for column in y.unbind(1):
        best = torch.minimum(best, column)
    return best + y.mean(1)


@decoy
def infinity_as_first_extreme(y, step):
    low = y.new_full((3,), float("inf")).scatter_reduce(0, torch.tensor([0, 1, 2, 0, 1, 2]), y[0], "amin")
    return low.mean() + y


@decoy
def infinite_bounds(y, step):
    return y.clamp(min=-float("inf"), max=float("inf"))


@decoy
def memory_not_written_yet(y, step):
    buffer = torch.empty(8, 6).fill_(float("nan"))
    buffer.copy_(y.detach())
    return y + buffer


@decoy
def a_metric_that_is_nan(y, step):
    (y.detach()[:, :1] * 0 / 0).mean()
    return y


@decoy
def a_reward_of_minus_infinity_left_out(y, step):
    reward = torch.tensor([1.0, -torch.inf, 2.0, 1.0, 0.5, 3.0])
    keep = torch.isfinite(reward)
    return y[:, keep] * reward[keep]


@decoy
def distances_of_equal_points(y, step):
    return y + torch.cdist(y, y).mean() + y[:, :1].atan2(y[:, :1]) + (y * 0).std(0)
