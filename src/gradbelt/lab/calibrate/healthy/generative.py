"""Images made: autoencoders, adversarial nets, diffusion, a flow. Losses below zero, losses that swing."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradbelt.lab.calibrate.data import digits, some
from gradbelt.lab.calibrate.training import Learnt, Training


def net(*sizes: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), act()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def distance(made: Tensor, real: Tensor) -> float:
    """Squared energy distance between two sets of points: 0 where they are alike."""
    apart = 2 * torch.cdist(made, real).mean() - torch.cdist(made, made).mean() - torch.cdist(real, real).mean()
    return float(apart)


def autoencoder(training: Training) -> Learnt:
    """Through a bottleneck of eight, SGD with momentum and Nesterov."""
    x, _, held, _ = digits()
    model = net(64, 48, 8, 48, 64, act=nn.ELU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    training.fasten(model, optimizer)

    def test() -> float:
        with torch.no_grad():
            return float(functional.mse_loss(model(held), held))

    before = test()
    for (images,) in training.batches(lambda: some(32, x)):
        optimizer.zero_grad()
        training.see(functional.mse_loss(model(images), images)).backward()
        optimizer.step()
    return Learnt(before, test())


def vae_summed(training: Training) -> Learnt:
    """A variational autoencoder whose loss is summed over pixels and batch: tens of thousands, and falling."""
    x, _, held, _ = digits()
    inner, outer = net(64, 48, 12), net(6, 48, 64)
    model = nn.ModuleList([inner, outer])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    training.fasten(model, optimizer)

    def loss_of(images: Tensor) -> Tensor:
        mean, logvar = inner(images * 3).chunk(2, dim=1)
        made = outer(mean + torch.randn_like(mean) * torch.exp(0.5 * logvar))
        return (made - images * 3).square().sum() - 0.5 * (1 + logvar - mean.square() - logvar.exp()).sum()

    with torch.no_grad():
        before = float(loss_of(held))
    for (images,) in training.batches(lambda: some(64, x)):
        optimizer.zero_grad()
        training.see(loss_of(images)).backward()
        optimizer.step()
    with torch.no_grad():
        return Learnt(before, float(loss_of(held)))


def gan(training: Training) -> Learnt:
    """Generator against discriminator, the saturating half replaced as in practice: losses that swing for ever."""
    x, _, held, _ = digits()
    made, critic = net(8, 48, 64), net(64, 48, 1, act=nn.LeakyReLU)
    optimizers = [torch.optim.Adam(m.parameters(), lr=5e-4, betas=(0.5, 0.999)) for m in (critic, made)]
    training.fasten(nn.ModuleList([made, critic]), *optimizers)
    judge = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
    before = distance(made(torch.randn(297, 8)), held)
    for (images,) in training.batches(lambda: some(32, x)):
        optimizers[0].zero_grad()
        fake = made(torch.randn(32, 8))
        training.see(judge(critic(images), ones) + judge(critic(fake.detach()), zeros), "critic").backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        training.see(judge(critic(fake), ones), "generator").backward()
        optimizers[1].step()
    return Learnt(before, distance(made(torch.randn(297, 8)), held), share=0.3)


def wgan_gp(training: Training) -> Learnt:
    """A Wasserstein critic with a gradient penalty, three steps of it to one of the generator: losses below zero."""
    x, _, held, _ = digits()
    made, critic = net(8, 48, 64), net(64, 48, 48, 1, act=nn.LeakyReLU)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-3, betas=(0.0, 0.9)) for m in (critic, made)]
    training.fasten(nn.ModuleList([made, critic]), *optimizers)
    before = distance(made(torch.randn(297, 8)), held)
    for (images,) in training.batches(lambda: some(32, x)):
        fake = made(torch.randn(32, 8))
        mixed = torch.lerp(images, fake.detach(), torch.rand(32, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        penalty = 10 * (slope.norm(dim=1) - 1).square().mean()
        optimizers[0].zero_grad()
        training.see(critic(fake.detach()).mean() - critic(images).mean() + penalty, "critic").backward()
        optimizers[0].step()
        if training.step % 3 == 2:
            optimizers[1].zero_grad()
            training.see(-critic(made(torch.randn(32, 8))).mean(), "generator").backward()
            optimizers[1].step()
    return Learnt(before, distance(made(torch.randn(297, 8)), held), share=0.3)


def diffusion(training: Training) -> Learnt:
    """A net that tells the noise in a noisy image, AdamW with an average of its weights kept beside it."""
    x, _, held, _ = digits()
    model = net(65, 96, 96, 64, act=nn.SiLU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    training.fasten(model, optimizer)
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))

    def loss_of(images: Tensor, with_: nn.Module = model) -> Tensor:
        time, noise = torch.rand(len(images), 1), torch.randn_like(images)
        noisy = torch.cos(time * math.pi / 2) * images + torch.sin(time * math.pi / 2) * noise
        return functional.mse_loss(with_(torch.cat([noisy, time], dim=1)), noise)

    with torch.no_grad():
        before = float(loss_of(held))
    for (images,) in training.batches(lambda: some(64, x)):
        optimizer.zero_grad()
        training.see(loss_of(images)).backward()
        optimizer.step()
        mean.update_parameters(model)
    with torch.no_grad():
        return Learnt(before, float(loss_of(held, mean)))


def flow(training: Training) -> Learnt:
    """Coupling layers on images with a little noise: a log-likelihood that starts above zero and goes far below."""
    x, _, held, _ = digits()
    halves = nn.ModuleList(net(32, 48, 64, act=nn.Tanh) for _ in range(4))
    for half in halves:
        assert isinstance(half, nn.Sequential)
        nn.init.zeros_(half[-1].weight)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(halves.parameters(), lr=1e-3)
    training.fasten(halves, optimizer)

    def loss_of(images: Tensor) -> Tensor:
        left, right = (images + 0.1 * torch.randn_like(images)).chunk(2, dim=1)
        volume = torch.zeros(len(images))
        for half in halves:
            scale, shift = half(left).chunk(2, dim=1)
            scale = 2 * torch.tanh(scale)
            left, right = right * torch.exp(scale) + shift, left
            volume = volume + scale.sum(dim=1)
        inner = torch.cat([left, right], dim=1)
        return (0.5 * (inner.square() + math.log(2 * math.pi)).sum(dim=1) - volume).mean()

    with torch.no_grad():
        before = float(loss_of(held))
    for (images,) in training.batches(lambda: some(64, x)):
        optimizer.zero_grad()
        training.see(loss_of(images)).backward()
        nn.utils.clip_grad_norm_(halves.parameters(), 50.0)
        optimizer.step()
    with torch.no_grad():
        return Learnt(before, float(loss_of(held)))


SCRIPTS = (autoencoder, vae_summed, gan, wgan_gp, diffusion, flow)
