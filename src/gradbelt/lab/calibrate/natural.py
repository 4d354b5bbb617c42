"""Trainings that fail by themselves, as people write them: too deep, too fast, too far back in time, a log of zero.

A shape and the step it begins at go with each. Whether one failed is judged by what it learnt, or by its first value
that is not finite: one that went well after all is no part of the corpus.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from gradbelt.lab.calibrate.data import characters, diabetes, digits, some, text
from gradbelt.lab.calibrate.fault import Shape
from gradbelt.lab.calibrate.healthy import language, tabular, vision
from gradbelt.lab.calibrate.healthy.agents import Poles
from gradbelt.lab.calibrate.training import Learnt, Training

STEPS = 300


@dataclass(frozen=True, slots=True)
class Natural:
    """A script that fails, how that shows, and the symptoms that name it where no warning is due."""

    script: Callable[[Training], Learnt]
    shape: Shape
    kinds: tuple[str, ...] = ()


def _spread(training: Training, low: float, high: float) -> float:
    """A strength of this seed's own, evenly over the logarithm."""
    share = float(torch.rand((), generator=torch.Generator().manual_seed(training.seed)))
    return float(low * (high / low) ** share)


def _plain(depth: int, width: int, act: type[nn.Module], gain: float, inputs: int = 64) -> nn.Sequential:
    """Layers without skips or norms; standard deviation `gain` over the root of the fan-in."""
    layers: list[nn.Module] = []
    for i in range(depth):
        linear = nn.Linear(inputs if i == 0 else width, width)
        nn.init.normal_(linear.weight, 0.0, gain / math.sqrt(linear.in_features))
        nn.init.zeros_(linear.bias)
        layers += [linear, act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def _classify(
    training: Training,
    model: nn.Module,
    optimizer: Optimizer,
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor] = vision.cross_entropy,
) -> Learnt:
    """Digits; chance is a cross-entropy of 2.3, so what began above that by far has learnt nothing by coming down."""
    learnt = vision.learn(training, model, optimizer, loss_of=loss_of)
    return Learnt(min(learnt.before, math.log(10)), learnt.after)


def deep_plain(training: Training) -> Learnt:
    """Fifty layers, each a little too strong: 1.1 to the fiftieth."""
    model = _plain(50, 32, nn.ReLU, math.sqrt(2) * _spread(training, 1.1, 1.3))
    return _classify(training, model, torch.optim.SGD(model.parameters(), lr=0.05))


def init_large(training: Training) -> Learnt:
    """Eight layers initialised three to six times too large."""
    model = _plain(8, 48, nn.ReLU, math.sqrt(2) * _spread(training, 3, 6))
    return _classify(training, model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


def deep_tanh(training: Training) -> Learnt:
    """Thirty saturated layers."""
    model = _plain(30, 48, nn.Tanh, _spread(training, 2.5, 4))
    return _classify(training, model, torch.optim.SGD(model.parameters(), lr=0.1))


def no_norm(training: Training) -> Learnt:
    """Thirty residual blocks without a norm or a scale: each doubles the variance."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.out = nn.Linear(64, 32), nn.Linear(32, 10)
            self.blocks = nn.ModuleList(_plain(1, 32, nn.ReLU, 1.6, 32)[:2] for _ in range(30))

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            for block in self.blocks:
                x = x + block(x)
            logits: Tensor = self.out(x)
            return logits

    model = Net()
    return _classify(training, model, torch.optim.SGD(model.parameters(), lr=_spread(training, 0.01, 0.1)))


def vanishing(training: Training) -> Learnt:
    """Twenty layers of sigmoids: nothing arrives at the first."""
    model = _plain(20, 32, nn.Sigmoid, 1.0)
    return _classify(training, model, torch.optim.SGD(model.parameters(), lr=0.1))


def dead(training: Training) -> Learnt:
    """A first step so large that every ReLU is negative for good."""
    model = vision.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def pushed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = vision.cross_entropy(model, x, y)
        if training.step != 12:
            return loss
        assert isinstance(model, nn.Sequential)
        return loss + 200 * _spread(training, 3, 10) * (model[0].bias.sum() + model[3].bias.sum())  # type: ignore

    return _classify(training, model, optimizer, pushed)


def rnn_relu(training: Training) -> Learnt:
    """A ReLU RNN walked back over 48 characters, its rate warmed up to one copied from a feed-forward net."""
    model = language.Recurrent(nn.RNN, 48)
    model.cell = nn.RNN(24, 48, nonlinearity="relu", batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=_spread(training, 1, 3), momentum=0.9)
    return language.learn(training, model, optimizer, length=48, schedule=lambda step: min(1.0, (step + 5) / 150))


def rnn_strong(training: Training) -> Learnt:
    """A tanh RNN whose recurrent matrix is four to eight times too strong."""
    model = language.Recurrent(nn.RNN, 48)
    nn.init.normal_(model.cell.weight_hh_l0, 0.0, _spread(training, 4, 8) / math.sqrt(48))  # type: ignore[arg-type]
    learnt = language.learn(training, model, torch.optim.SGD(model.parameters(), lr=1.0), length=48)
    return Learnt(2.45, learnt.after, share=0.05)  # what needs no memory: a table of pairs of characters


def rate_sgd(training: Training) -> Learnt:
    """A straight line by a rate above two over its curvature."""
    x, y, *_ = diabetes()
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=_spread(training, 0.3, 0.6))
    return tabular.learn(training, model, optimizer, functional.mse_loss, draw=lambda: (x, (y - tabular.MEAN) / 77))


def rate_raw(training: Training) -> Learnt:
    """Targets in the hundreds and a rate meant for ones."""
    model = tabular.regressor()
    optimizer = torch.optim.SGD(model.parameters(), lr=_spread(training, 3e-3, 3e-2), momentum=0.9)
    return tabular.learn(training, model, optimizer, functional.mse_loss, standard=False)


def range_test(training: Training) -> Learnt:
    """A range test of the learning rate that nobody stops."""
    model = vision.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    factor = 1 + _spread(training, 0.03, 0.06)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, factor)
    learnt = vision.learn(training, model, optimizer, scheduler=scheduler)
    return Learnt(math.log(10), learnt.after)


def gpt_rate(training: Training) -> Learnt:
    """A GPT whose warm-up leads up to a rate a hundred times too high."""
    model = language.GPT()
    optimizer = torch.optim.Adam(model.parameters(), lr=_spread(training, 0.1, 0.5))
    learnt = language.learn(training, model, optimizer, schedule=lambda step: min(1.0, (step + 1) / 200))
    return Learnt(3.2, learnt.after)  # the entropy of single characters


def attention_rate(training: Training) -> Learnt:
    """Queries and keys learn a thousand times faster than the rest: logits grow, while the norms do not."""
    model = language.GPT()
    fast = [parameter for name, parameter in model.named_parameters() if "qkv" in name]
    slow = [parameter for name, parameter in model.named_parameters() if "qkv" not in name]
    optimizer = torch.optim.Adam([{"params": slow, "lr": 1e-3}, {"params": fast, "lr": _spread(training, 0.3, 1)}])
    learnt = language.learn(training, model, optimizer, schedule=lambda step: min(1.0, (step + 1) / 100))
    return Learnt(3.2, learnt.after)


def growing_decay(training: Training) -> Learnt:
    """A weight decay with its sign wrong."""
    model = vision.mlp()
    factor = _spread(training, 0.02, 0.06)

    def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        squares = torch.stack([parameter.square().sum() for parameter in model.parameters()])
        return vision.cross_entropy(model, x, y) - factor * squares.sum()

    return _classify(training, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), wrong)


def critic_unheld(training: Training) -> Learnt:
    """A Wasserstein critic that nothing holds."""
    x, *_ = digits()
    critic = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))
    optimizer = torch.optim.SGD(critic.parameters(), lr=_spread(training, 0.03, 0.1), momentum=0.9)
    training.fasten(critic, optimizer)
    for (images,) in training.batches(lambda: some(32, x)):
        optimizer.zero_grad()
        training.see(critic(torch.randn(32, 64)).mean() - critic(images).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        return Learnt(0.0, float(critic(x).abs().mean()))  # a distance between images cannot be in the thousands


def counts(training: Training) -> Learnt:
    """A Poisson regression on raw counts whose rate is an exponential that runs away."""
    x, y, held, wanted = diabetes()
    model = tabular.regressor()
    optimizer = torch.optim.SGD(model.parameters(), lr=_spread(training, 0.01, 0.1), momentum=0.9)
    training.fasten(model, optimizer)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        said = model(x)
        return (said.exp() - y * said).mean()

    before = float(loss_of(held, wanted).detach())
    for rows, targets in training.batches(lambda: some(32, x, y)):
        optimizer.zero_grad()
        training.see(loss_of(rows, targets)).backward()
        optimizer.step()
    with torch.no_grad():
        return Learnt(before, float(loss_of(held, wanted)))


def entropy_by_hand(training: Training) -> Learnt:
    """Cross-entropy by hand: softmax, then log. Goes well until a probability is 0."""
    model = vision.mlp()

    def by_hand(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        chances = torch.softmax(60 * model(x), dim=1)
        return -(functional.one_hot(y, 10) * torch.log(chances)).sum(dim=1).mean()

    return _classify(training, model, torch.optim.Adam(model.parameters(), lr=_spread(training, 3e-3, 1e-2)), by_hand)


def equal_pair(training: Training) -> Learnt:
    """A loss of distances between the rows of a batch, which was drawn with replacement."""
    x, y, *_ = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    def apart(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        said = model(x)
        one, other = torch.triu_indices(len(x), len(x), offset=1)
        return functional.cross_entropy(said, y) - 1e-3 * (said[one] - said[other]).square().sum(dim=1).sqrt().mean()

    return vision.learn(
        training, model, torch.optim.Adam(model.parameters(), lr=1e-3), loss_of=apart, draw=lambda: some(8, x, y)
    )


def half_bare(training: Training) -> Learnt:
    """Half precision without a scaler, and a sum that does not fit in it."""
    x, y, *_ = digits()
    model = vision.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=_spread(training, 0.02, 0.05), momentum=0.9)
    training.fasten(model, optimizer)
    before = vision.held_out(model)
    for images, labels in training.batches(lambda: some(64, x, y)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(images)
            energy = logits.square().sum(dim=1) * 400  # above 65504 once the logits are four or so
        training.see(functional.cross_entropy(logits.float(), labels) + 1e-9 * energy.float().mean()).backward()
        optimizer.step()
    return Learnt(before, vision.held_out(model))


def triad(training: Training) -> Learnt:
    """Q-learning without a target net, off its own policy, at a high rate: values that feed on themselves."""
    poles = Poles(training.seed)
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=_spread(training, 0.05, 0.2), momentum=0.9)
    training.fasten(net, optimizer)

    def draw() -> tuple[Tensor, ...]:
        seen, acts = poles.observe(), torch.randint(2, (16,))
        ends = poles.push(acts)
        return seen, acts, poles.observe(), ends

    for seen, acts, then, ends in training.batches(draw):
        wanted = 1.0 + 1.5 * net(then).max(dim=1).values * (1 - ends)
        optimizer.zero_grad()
        training.see(functional.mse_loss(net(seen).gather(1, acts[:, None])[:, 0], wanted.detach())).backward()
        optimizer.step()
    with torch.no_grad():
        return Learnt(0.0, float(net(poles.observe()).abs().mean()))  # a return above 200 there cannot be


def unzeroed(training: Training) -> Learnt:
    """`zero_grad` was forgotten."""
    model = language.Recurrent(nn.LSTM, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=_spread(training, 0.3, 1))
    training.fasten(model, optimizer)
    before, source = language.held_out(model, 24), text()[0]
    for x, y in training.batches(lambda: characters(source, 8, 24)):
        training.see(language.loss_of(model, x, y)).backward()
        optimizer.step()
    return Learnt(min(before, 3.2), language.held_out(model, 24))


NATURAL: dict[str, Natural] = {
    natural.script.__name__: natural
    for natural in (
        Natural(deep_plain, "static"),
        Natural(init_large, "static"),
        Natural(deep_tanh, "static", ("saturated", "stalled", "grad_vanishing")),
        Natural(no_norm, "static"),
        Natural(vanishing, "static", ("grad_vanishing", "saturated")),
        Natural(dead, "static", ("dead_units",)),
        Natural(rnn_relu, "ramp"),
        Natural(rnn_strong, "static", ("saturated", "stalled")),
        Natural(rate_sgd, "ramp"),
        Natural(rate_raw, "ramp"),
        Natural(range_test, "ramp"),
        Natural(gpt_rate, "ramp", ("logit_growth", "stalled")),
        Natural(attention_rate, "ramp", ("logit_growth",)),
        Natural(growing_decay, "ramp"),
        Natural(critic_unheld, "ramp"),
        Natural(counts, "ramp"),
        Natural(entropy_by_hand, "nonfinite"),
        Natural(equal_pair, "nonfinite"),
        Natural(half_bare, "nonfinite"),
        Natural(triad, "ramp"),
        Natural(unzeroed, "ramp"),
    )
}
