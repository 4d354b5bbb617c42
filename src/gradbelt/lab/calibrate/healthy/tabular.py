"""Numbers in, numbers out: diabetes as it stands and standardised, heavy tails, several losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from gradbelt.lab.calibrate.data import diabetes, some
from gradbelt.lab.calibrate.training import Batch, Learnt, Training

MEAN, SPREAD = 152.1, 77.0  # of the target


def regressor(width: int = 32, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


def learn(
    training: Training, model: nn.Module, optimizer: Optimizer, loss_of: Callable[[Tensor, Tensor], Tensor],
    *, standard: bool = True, clip: float | None = None, draw: Callable[[], Batch] | None = None,
) -> Learnt:  # fmt: skip
    """The loop they share; `loss_of` takes what the model says and what was wanted."""
    x, y, held, wanted = diabetes()
    if standard:
        y, wanted = (y - MEAN) / SPREAD, (wanted - MEAN) / SPREAD
    training.fasten(model, optimizer)

    def test() -> float:
        with torch.no_grad():
            return float(loss_of(model(held), wanted))

    before = test()
    for rows, targets in training.batches(draw or (lambda: some(32, x, y))):
        optimizer.zero_grad()
        training.see(loss_of(model(rows), targets)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return Learnt(before, test())


def raw_targets(training: Training) -> Learnt:
    """Targets of 25 to 346 as they stand, Adam: a loss of 29 000 to begin with."""
    model = regressor()
    return learn(training, model, torch.optim.Adam(model.parameters(), lr=1e-2), functional.mse_loss, standard=False)


def linear_sgd(training: Training) -> Learnt:
    """A straight line by SGD, from zero."""
    model = nn.Linear(10, 1)
    nn.init.zeros_(model.weight)
    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.01), functional.mse_loss)


def huber_adagrad(training: Training) -> Learnt:
    """A robust loss, Adagrad."""
    model = regressor()
    return learn(training, model, torch.optim.Adagrad(model.parameters(), lr=0.02), functional.smooth_l1_loss)


def mean_and_spread(training: Training) -> Learnt:
    """A net that also says how sure it is: a likelihood that goes below zero."""
    model = regressor(outputs=2)

    def loss_of(said: Tensor, wanted: Tensor) -> Tensor:
        mean, spread = said.chunk(2, dim=1)
        # tenths of a standard deviation, so that the likelihood's sign changes on the way
        return functional.gaussian_nll_loss(mean / 10, wanted / 10, functional.softplus(spread) + 1e-3)

    return learn(training, model, torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1), loss_of)


def heavy_tails(training: Training) -> Learnt:
    """Gradients with outliers that no mean holds: Student's noise of two degrees of freedom, clipped at 1."""
    model = regressor()

    def wave(x: Tensor) -> Tensor:
        return torch.sin(x[:, :1] + x[:, 1:2]) + 0.5 * x[:, 2:3]

    def draw() -> Batch:
        x = torch.randn(64, 10)
        return x, wave(x) + 0.5 * torch.distributions.StudentT(2.0).sample((64, 1))

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    training.fasten(model, optimizer)
    clean = torch.randn(2000, 10, generator=torch.Generator().manual_seed(1))

    def test() -> float:
        with torch.no_grad():
            return float(functional.mse_loss(model(clean), wave(clean)))

    before = test()
    for x, y in training.batches(draw):
        optimizer.zero_grad()
        training.see(functional.mse_loss(model(x), y)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return Learnt(before, test())


def heavy_tails_bare(training: Training) -> Learnt:
    """The same kind of noise, three degrees of freedom, and nothing that clips."""
    model = regressor()

    def wave(x: Tensor) -> Tensor:
        return torch.sin(x[:, :1]) + 0.5 * x[:, 2:3]

    def draw() -> Batch:
        x = torch.randn(64, 10)
        return x, wave(x) + 0.3 * torch.distributions.StudentT(3.0).sample((64, 1))

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    training.fasten(model, optimizer)
    clean = torch.randn(2000, 10, generator=torch.Generator().manual_seed(1))

    def test() -> float:
        with torch.no_grad():
            return float(functional.mse_loss(model(clean), wave(clean)))

    before = test()
    for x, y in training.batches(draw):
        optimizer.zero_grad()
        training.see(functional.mse_loss(model(x), y)).backward()
        optimizer.step()
    return Learnt(before, test())


def two_tasks(training: Training) -> Learnt:
    """Two losses of one trunk, of very different size, and a third that comes only every tenth step."""
    x, y, held, wanted = diabetes()
    model = regressor(outputs=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    training.fasten(model, optimizer)

    def losses(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        said = model(x)
        level = functional.mse_loss(said[:, :1], (y - MEAN) / SPREAD)
        return level, functional.binary_cross_entropy_with_logits(said[:, 1:], (y > MEAN).float())

    def test() -> float:
        with torch.no_grad():
            return float(sum(losses(held, wanted)))

    before = test()
    for rows, targets in training.batches(lambda: some(32, x, y)):
        optimizer.zero_grad()
        level, side = losses(rows, targets)
        training.see(level, "level").backward(retain_graph=True)
        training.see(100 * side, "side").backward()
        if training.step % 10 == 0:
            weights = [parameter.square().sum() for parameter in model.parameters()]
            training.see(1e-3 * torch.stack(weights).sum(), "weights").backward()
        optimizer.step()
    return Learnt(before, test())


SCRIPTS = (
    raw_targets, linear_sgd, huber_adagrad, mean_and_spread, heavy_tails, heavy_tails_bare, two_tasks,
)  # fmt: skip
