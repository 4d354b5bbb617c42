"""Images: scikit-learn's digits, from a residual net with batch norm to full-batch descent at the edge of stability."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from gradbelt.lab.calibrate.data import digits, some
from gradbelt.lab.calibrate.training import Learnt, Training

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Residual(nn.Module):
    """A ResNet of two blocks for 8 x 8 images, with batch norm."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList(self._block(width) for _ in range(2))
        self.head = nn.Linear(width * 4, 10)

    @staticmethod
    def _block(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.view(-1, 1, 8, 8))
        for block in self.blocks:
            x = functional.relu(x + block(x))
        logits: Tensor = self.head(functional.avg_pool2d(x, 4).flatten(1))
        return logits


def mlp(width: int = 48, act: type[nn.Module] = nn.ReLU, drop: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, width), act(), nn.Dropout(drop), nn.Linear(width, width), act(), nn.Linear(width, 10)
    )


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y)


@torch.no_grad()
def held_out(model: nn.Module) -> float:
    """Cross-entropy on the images that were never learnt from, in eval mode."""
    model.eval()
    loss = float(cross_entropy(model, *digits()[2:]))
    model.train()
    return loss


def learn(
    training: Training,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    rows: int = 32,
    scheduler: LRScheduler | None = None,
    loss_of: Loss = cross_entropy,
    draw: Callable[[], tuple[Tensor, ...]] | None = None,
    clip: float | None = None,
) -> Learnt:
    """The loop they share. `clip` is gradbelt's own."""
    training.fasten(model, optimizer, clip=clip)
    before, (x, y, *_) = held_out(model), digits()
    for images, labels in training.batches(draw or (lambda: some(rows, x, y))):
        optimizer.zero_grad()
        training.see(loss_of(model, images, labels)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return Learnt(before, held_out(model))


def resnet_steps(training: Training) -> Learnt:
    """Residual net with batch norm, SGD with momentum, the rate stepped down twice."""
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    turns = [training.steps // 2, training.steps * 3 // 4]
    return learn(training, model, optimizer, scheduler=lr_scheduler.MultiStepLR(optimizer, turns))


def resnet_adam(training: Training) -> Learnt:
    """The same with Adam."""
    model = Residual()
    return learn(training, model, torch.optim.Adam(model.parameters(), lr=3e-3))


def cnn_dropout(training: Training) -> Learnt:
    """A plain convolutional net with dropout, NAdam."""
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(256, 10),
    )  # fmt: skip
    return learn(training, model, torch.optim.NAdam(model.parameters(), lr=2e-3))


def mlp_momentum(training: Training) -> Learnt:
    """A multilayer perceptron, SGD with momentum, to the end of what there is to learn."""
    model = mlp()
    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


def mlp_tail(training: Training) -> Learnt:
    """Adam on few images, long after every one of them is known: the norms go down for as long as it runs."""
    x, y, *_ = digits()
    model = mlp(act=nn.Tanh)
    return learn(
        training, model, torch.optim.Adam(model.parameters(), lr=2e-3), draw=lambda: some(32, x[:400], y[:400])
    )


def mlp_restarts(training: Training) -> Learnt:
    """Cosine with warm restarts: the rate jumps up a hundredfold five times."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    every = max(training.steps // 6, 1)
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, every, eta_min=0.002)
    return learn(training, model, optimizer, scheduler=scheduler)


def mlp_one_cycle(training: Training) -> Learnt:
    """One cycle up to a rate that would be too high to begin with."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.15, total_steps=training.steps + 1)
    return learn(training, model, optimizer, scheduler=scheduler)


def edge_sgd(training: Training) -> Learnt:
    """Full-batch gradient descent where the sharpness hovers at two over the rate: the loss is not monotone."""
    x, y, *_ = digits()
    model = mlp(32, nn.Tanh)
    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.5), draw=lambda: (x[:300], y[:300]))


def edge_adam(training: Training) -> Learnt:
    """Full-batch Adam, whose loss spikes and comes back as its second moment forgets."""
    x, y, *_ = digits()
    model = mlp(32, nn.Tanh)
    return learn(training, model, torch.optim.Adam(model.parameters(), lr=1e-3), draw=lambda: (x[:300], y[:300]))


def label_noise(training: Training) -> Learnt:
    """A third of the labels are wrong, and wrong anew each time."""
    model = mlp(drop=0.1)

    def noisy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wrong = torch.rand(len(y)) < 0.3
        return cross_entropy(model, x, torch.where(wrong, torch.randint(10, y.shape), y))

    return learn(training, model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss_of=noisy)


def new_classes(training: Training) -> Learnt:
    """A curriculum: four digits, then seven, then all; each change is a jump of loss and gradient."""
    x, y, *_ = digits()
    kinds = [torch.nonzero(y < most)[:, 0] for most in (4, 7, 10)]
    model = mlp()

    def draw() -> tuple[Tensor, ...]:
        mine = kinds[min(3 * training.step // training.steps, 2)]
        return some(32, x[mine], y[mine])

    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9), draw=draw)


def one_by_one(training: Training) -> Learnt:
    """Batches of one: gradients that jump by orders of magnitude, for as long as it runs."""
    model = mlp()
    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.01), rows=1)


def rare_class(training: Training) -> Learnt:
    """Three classes are a hundred times rarer than the others, and weigh thirty times as much."""
    x, y, *_ = digits()
    share = torch.where(y < 3, 0.01, 1.0)
    weight = torch.where(torch.arange(10) < 3, 30.0, 1.0)
    model = mlp()

    def draw() -> tuple[Tensor, ...]:
        rows = torch.multinomial(share, 32, replacement=True)
        return x[rows], y[rows]

    def weighted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(model(x), y, weight=weight)

    return learn(training, model, torch.optim.Adam(model.parameters(), lr=1e-3), draw=draw, loss_of=weighted)


def thawed(training: Training) -> Learnt:
    """The first layers are frozen for a third of the run, and join the optimizer then."""
    model = Residual()
    model.stem.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    x, y, *_ = digits()

    def draw() -> tuple[Tensor, ...]:
        if training.step == training.steps // 3:
            model.stem.requires_grad_(True)
            optimizer.add_param_group({"params": list(model.stem.parameters()), "lr": 1e-3})
        return some(32, x, y)

    return learn(training, model, optimizer, draw=draw)


def belted(training: Training) -> Learnt:
    """With gradbelt's own clipping at 1, and a rate that needs it."""
    model = mlp()
    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), clip=1.0)


def lbfgs(training: Training) -> Learnt:
    """L-BFGS with a line search over few images: several evaluations a step, and great strides."""
    x, y, *_ = digits()
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=4, line_search_fn="strong_wolfe")
    training.fasten(model, optimizer)
    before = held_out(model)
    for images, labels in training.batches(lambda: some(400, x, y)):

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            penalty = 1e-3 * model.weight.square().sum()
            loss = training.see(cross_entropy(model, images, labels) + penalty)
            loss.backward()
            return loss

        optimizer.step(closure)
    return Learnt(before, held_out(model))


def half_scaled(training: Training) -> Learnt:
    """Half precision under a loss scaler that starts too high and looks for its scale anew every 100 steps."""
    x, y, *_ = digits()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=100)
    training.fasten(model, optimizer, scaler=scaler)
    before = held_out(model)
    for images, labels in training.batches(lambda: some(32, x, y)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(images)
        scaler.scale(training.see(functional.cross_entropy(logits.float(), labels))).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return Learnt(before, held_out(model))


def distilled(training: Training) -> Learnt:
    """A small net learns from a larger one that learns beside it: two losses, two optimizers."""
    x, y, *_ = digits()
    teacher, student = mlp(64), mlp(16)
    optimizers = [torch.optim.Adam(model.parameters(), lr=2e-3) for model in (teacher, student)]
    training.fasten(nn.ModuleList([teacher, student]), *optimizers)
    before = held_out(student)
    for images, labels in training.batches(lambda: some(32, x, y)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        training.see(cross_entropy(teacher, images, labels), "teacher").backward()
        optimizers[0].step()
        soft = functional.softmax(teacher(images).detach() / 2, dim=-1)
        apart = functional.kl_div(functional.log_softmax(student(images) / 2, dim=-1), soft, reduction="batchmean")
        training.see(4 * apart + cross_entropy(student, images, labels), "student").backward()
        optimizers[1].step()
    return Learnt(before, held_out(student))


SCRIPTS = (
    resnet_steps, resnet_adam, cnn_dropout, mlp_momentum, mlp_tail, mlp_restarts, mlp_one_cycle, edge_sgd, edge_adam,
    label_noise, new_classes, one_by_one, rare_class, thawed, belted, lbfgs, half_scaled, distilled,
)  # fmt: skip
