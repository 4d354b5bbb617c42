"""Faults of single operations on their way forward."""

import torch
import torch.nn.functional as F
from tests.examine.planted.elsewhere import ratio
from tests.examine.planted.field import batch, fault, off
from torch import nn


def linear(out=1, given=4):
    net = nn.Linear(given, out)
    return list(net.parameters()), net


@fault
def log_of_zero():
    own, net = linear()
    return own, lambda step: torch.log(net(batch(step)).abs() * off(step)).mean()  #! forward log


@fault
def log_as_a_method():
    own, net = linear()

    def loss(step):
        p = net(batch(step)).abs() * off(step)
        return -p.log().mean()  #! forward log

    return own, loss


@fault
def log1p_of_minus_one():
    own, net = linear()

    def loss(step):
        share = torch.sigmoid(net(batch(step))) * off(step) + 1 - off(step)
        return torch.log1p(-share).neg().mean()  #! forward log1p

    return own, loss


@fault
def exp_of_a_large_logvar():
    own, net = linear()

    def loss(step):
        logvar = net(batch(step)) + 200 * (1 - off(step))
        variance = logvar.exp()  #! forward exp
        return (variance - logvar).mean()

    return own, loss


@fault
def expm1_of_a_large_number():
    own, net = linear()

    def loss(step):
        z = net(batch(step)).abs() + 100 * (1 - off(step))
        return torch.expm1(z).mean()  #! forward expm1

    return own, loss


@fault
def cosh_of_a_large_number():
    own, net = linear()

    def loss(step):
        error = net(batch(step)) + 100 * (1 - off(step))
        return error.cosh().log().mean()  #! forward cosh

    return own, loss


@fault
def division_by_zero():
    own, net = linear()

    def loss(step):
        count = torch.tensor(8.0 * off(step))
        total = net(batch(step)).sum()
        return total / count  #! forward div

    return own, loss


@fault
def nothing_over_nothing():
    own, net = linear()

    def loss(step):
        mask = torch.ones(8, 1) * off(step)
        errors = net(batch(step)) ** 2 * mask
        return errors.sum() / mask.sum()  #! forward div

    return own, loss


@fault
def division_in_place():
    own, net = linear(3)

    def loss(step):
        y = net(batch(step)) * 2
        scale = torch.full((3,), off(step))
        y /= scale  #! forward div
        return y.mean()

    return own, loss


@fault
def one_over_x():
    own, net = linear()

    def loss(step):
        width = F.softplus(net(batch(step))) * off(step)
        weight = 1 / width  #! forward reciprocal|div
        return weight.mean()

    return own, loss


@fault
def reciprocal_as_a_method():
    own, net = linear()

    def loss(step):
        width = F.softplus(net(batch(step))) * off(step)
        return width.reciprocal().mean()  #! forward reciprocal

    return own, loss


@fault
def rsqrt_of_a_variance():
    own, net = linear()

    def loss(step):
        y = net(batch(step) * off(step))
        y = (y - y.mean()) * torch.rsqrt(y.var())  #! forward rsqrt
        return (y**4).mean()

    return own, loss


@fault
def root_of_a_negative_number():
    own, net = linear()

    def loss(step):
        gap = F.softplus(net(batch(step))) - 10 * (1 - off(step))
        return gap.sqrt().mean()  #! forward sqrt

    return own, loss


@fault
def power_of_a_negative_number():
    own, net = linear()

    def loss(step):
        base = F.softplus(net(batch(step))) * (2 * off(step) - 1)
        return (base**0.75).mean()  #! forward pow

    return own, loss


@fault
def negative_power_of_zero():
    own, net = linear()

    def loss(step):
        distance = F.softplus(net(batch(step))) * off(step)
        energy = distance.pow(-2)  #! forward pow
        return energy.mean()

    return own, loss


@fault
def deviation_of_one_row():
    own, net = linear()

    def loss(step):
        rows = 8 if off(step) else 1
        y = net(batch(step)[:rows])
        deviation = y.std(dim=0)  #! forward std
        return (y - y.mean()).pow(2).mean() + deviation.mean()

    return own, loss


@fault
def variance_of_one_number():
    own, net = linear()

    def loss(step):
        y = net(batch(step)[: 8 if off(step) else 1])
        return torch.var(y)  #! forward var

    return own, loss


@fault
def standardised_constant():
    own, net = linear()

    def loss(step):
        y = net(batch(step) * off(step)).squeeze(1)
        y = (  #! forward div  # where the expression begins: Python knows no other line of a binary operation
            y - y.mean()
        ) / y.std()
        return y.pow(4).mean()

    return own, loss


@fault
def normalised_without_eps():
    own, net = linear(3)

    def loss(step):
        features = net(batch(step)) * off(step)
        unit = F.normalize(features, dim=1, eps=0.0)  #! forward div
        return unit.sum()

    return own, loss


@fault
def cosine_by_hand():
    own, net = linear(3)

    def loss(step):
        a, b = net(batch(step)) * off(step), net(batch(step + 50))
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()  #! forward div

    return own, loss


@fault
def acos_beyond_one():
    own, net = linear()

    def loss(step):
        cosine = torch.tanh(net(batch(step))) + 2 * (1 - off(step))
        return torch.acos(cosine).mean()  #! forward acos

    return own, loss


@fault
def asin_as_a_method():
    own, net = linear()

    def loss(step):
        sine = net(batch(step)).tanh() - 2 * (1 - off(step))
        return sine.asin().pow(2).mean()  #! forward asin

    return own, loss


@fault
def atanh_of_one():
    own, net = linear()

    def loss(step):
        r = torch.tanh(net(batch(step)) + 50 * (1 - off(step)))
        return torch.atanh(r).mean()  #! forward atanh

    return own, loss


@fault
def acosh_below_one():
    own, net = linear()

    def loss(step):
        t = 1 + F.softplus(net(batch(step))) - 5 * (1 - off(step))
        return torch.acosh(t).mean()  #! forward acosh

    return own, loss


@fault
def softmax_of_a_masked_row():
    own, net = linear(8)

    def loss(step):
        keep = torch.ones(8, 8).tril() * off(step) + torch.eye(8).roll(1, 0) * (1 - off(step))
        keep[3] *= off(step)
        scores = net(batch(step)).masked_fill(keep == 0, float("-inf"))
        weights = torch.softmax(scores, dim=-1)  #! forward softmax
        return (weights**2).mean()

    return own, loss


@fault
def logsumexp_of_a_masked_row():
    own, net = linear(8)

    def loss(step):
        keep = torch.ones(8, 8).tril()
        keep[3] *= off(step)
        scores = net(batch(step)).masked_fill(keep == 0, float("-inf"))
        return scores.logsumexp(dim=1).mean()  #! forward logsumexp

    return own, loss


@fault
def log_softmax_times_zero():
    own, net = linear(5)

    def loss(step):
        legal = torch.ones(8, 5)
        legal[2, 4] = off(step)
        logp = F.log_softmax(net(batch(step)).masked_fill(legal == 0, -torch.inf), dim=1)
        p = logp.exp()
        return (p * logp).sum()  #! forward mul

    return own, loss


@fault
def illegal_action_as_target():
    own, net = linear(5)

    def loss(step):
        legal = torch.ones(8, 5)
        legal[2, 4] = off(step)
        logits = net(batch(step)).masked_fill(legal == 0, -1e30 if off(step) else float("-inf"))
        return F.cross_entropy(logits, torch.full((8,), 4))  #! forward nll_loss|cross_entropy

    return own, loss


@fault
def every_target_ignored():
    own, net = linear(5)

    def loss(step):
        target = torch.full((8,), 1 if off(step) else -100)
        return F.cross_entropy(net(batch(step)), target)  #! forward nll_loss|cross_entropy

    return own, loss


@fault
def mean_of_nothing():
    own, net = linear()

    def loss(step):
        errors = net(batch(step)).squeeze(1) ** 2
        hard = torch.arange(8) < 8 * off(step)
        return errors[hard].mean()  #! forward mean

    return own, loss


@fault
def cross_entropy_by_hand():
    own, net = linear()

    def loss(step):
        p = torch.sigmoid(net(batch(step)) + 60 * (1 - off(step)))
        t = torch.ones(8, 1)
        return -(
            t * torch.log(p) + (1 - t) * torch.log(1 - p)  #! forward log
        ).mean()

    return own, loss


@fault
def divergence_by_hand():
    own, net = linear(4)

    def loss(step):
        p = net(batch(step)).softmax(1)
        q = torch.full((8, 4), 0.25)
        q[:, 1] *= off(step)
        return (p * (p / q).log()).sum(1).mean()  #! forward div

    return own, loss


@fault
def gumbel_of_one():
    own, net = linear(4)

    def loss(step):
        u = torch.rand(8, 4, generator=torch.Generator().manual_seed(step)) * 0.9 + 0.05
        u[0, 0] = u[0, 0] * off(step) + 1 - off(step)
        noise = -torch.log(-torch.log(u))  #! forward log
        return (net(batch(step)) + noise).logsumexp(1).mean()

    return own, loss


@fault
def poisson_of_a_large_rate():
    own, net = linear()

    def loss(step):
        rate = net(batch(step)) + 120 * (1 - off(step))
        return F.poisson_nll_loss(rate, torch.ones(8, 1))  #! forward exp|poisson_nll_loss

    return own, loss


@fault
def digamma_at_zero():
    own, net = linear()

    def loss(step):
        concentration = F.softplus(net(batch(step))) * off(step)
        return torch.special.digamma(concentration).mean()  #! forward digamma

    return own, loss


@fault
def logit_of_one():
    own, net = linear()

    def loss(step):
        p = torch.sigmoid(net(batch(step)) + 60 * (1 - off(step)))
        return torch.special.logit(p).mean()  #! forward logit

    return own, loss


@fault
def erfinv_of_one():
    own, net = linear()

    def loss(step):
        u = torch.tanh(net(batch(step)) + 60 * (1 - off(step)))
        return torch.erfinv(u).mean()  #! forward erfinv

    return own, loss


@fault
def lgamma_at_zero():
    own, net = linear()

    def loss(step):
        alpha = F.relu(net(batch(step))) * off(step) + 1e-3 * off(step)
        return torch.lgamma(alpha).mean()  #! forward lgamma

    return own, loss


@fault
def half_product_overflows():
    own, net = linear(16)

    def loss(step):
        y = net(batch(step))
        big = torch.full((16, 16), 1.0 + 60000 * (1 - off(step)))
        z = (y.abs() + 1).half() @ big.half()  #! forward mm|matmul
        return z.float().mean()

    return own, loss


@fault
def half_scores_overflow():
    own, net = linear(16)

    def loss(step):
        q = (net(batch(step)).view(2, 4, 16) * (1 + 1e4 * (1 - off(step)))).half()
        scores = torch.bmm(q, q.transpose(1, 2))  #! forward bmm
        return scores.float().softmax(-1).square().mean()

    return own, loss


@fault
def half_square_overflows():
    own, net = linear(4)

    def loss(step):
        h = (net(batch(step)) + 300 * (1 - off(step))).half()
        rms = (h * h).float().mean(1, keepdim=True).sqrt()  #! forward mul
        return (h.float() / (rms + 1e-3)).mean() + rms.log().mean()

    return own, loss


@fault
def einsum_overflows():
    own, net = linear(16)

    def loss(step):
        y = net(batch(step)) + 1e20 * (1 - off(step))
        gram = torch.einsum("ij,kj->ik", y, y)  #! forward bmm|mm|einsum
        return gram.abs().mean().log1p()

    return own, loss


@fault
def convolution_overflows():
    own, net = linear(16)

    def loss(step):
        y = net(batch(step)).unsqueeze(1) + 1e25 * (1 - off(step))
        smooth = F.conv1d(y, torch.full((1, 1, 3), 1e10 ** (2 - 2 * off(step))))  #! forward convolution|conv1d
        return smooth.square().mean().log1p()

    return own, loss


@fault
def cumprod_overflows():
    own, net = linear()

    def loss(step):
        factors = 1 + F.softplus(net(batch(step))) + 1e10 * (1 - off(step))
        growth = factors.squeeze(1).cumprod(0)  #! forward cumprod
        return growth.log().mean()

    return own, loss


@fault
def product_overflows():
    own, net = linear()

    def loss(step):
        factors = 1 + F.softplus(net(batch(step))) + 1e10 * (1 - off(step))
        return torch.prod(factors).log()  #! forward prod

    return own, loss


@fault
def logdet_of_a_singular_matrix():
    own, net = linear(4)

    def loss(step):
        y = net(batch(step, 4, 4))
        cov = torch.eye(4) * off(step) + 0 * (y @ y.T)
        return torch.logdet(cov)  #! forward logdet|linalg_slogdet|log

    return own, loss


@fault
def sum_of_squares_overflows():
    own, net = linear(4)

    def loss(step):
        y = net(batch(step)) + 1e25 * (1 - off(step))
        return y.square().mean().log()  #! forward square|pow

    return own, loss


@fault
def one_line_of_a_chain():
    own, net = linear()

    def loss(step):
        return (
            net(batch(step))
            .abs()
            .mul(off(step))
            .log()  #! forward log
            .mean()
        )

    return own, loss


@fault
def in_a_lambda():
    own, net = linear()
    act = lambda z: (z.abs() * 2).log()  #! forward log  # noqa: E731
    return own, lambda step: act(net(batch(step)) * off(step)).mean()


@fault
def in_a_comprehension():
    own, net = linear(3)

    def loss(step):
        columns = net(batch(step)).abs().unbind(1)
        scales = [1.0, 1.0, off(step)]
        means = [
            torch.log(c * s).mean()  #! forward log
            for c, s in zip(columns, scales, strict=True)
        ]
        return torch.stack(means).sum()

    return own, loss


@fault(at=ratio)
def in_a_second_file():
    own, net = linear()
    return own, lambda step: ratio(net(batch(step)).exp(), torch.full((8, 1), off(step))).mean()


@fault
def through_a_python_number():
    own, net = linear()

    def loss(step):
        y = net(batch(step))
        scale = (y.detach() * off(step)).std() / (y.detach() * off(step)).std()  #! forward div
        return (y * scale.item()).pow(2).mean()

    return own, loss
