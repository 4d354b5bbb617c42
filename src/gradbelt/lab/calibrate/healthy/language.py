"""Language: characters of Python's own help texts, recurrent nets and small GPTs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gradbelt.lab.calibrate.data import CHARACTERS, characters, text
from gradbelt.lab.calibrate.training import Learnt, Training


class Recurrent(nn.Module):
    """Characters in, the logits of the next character out."""

    def __init__(self, cell: Callable[..., nn.RNNBase], hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, 24)
        self.cell = cell(24, hidden, num_layers=layers, batch_first=True)
        self.out = nn.Linear(hidden, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.cell(self.embedding(x))[0])
        return logits


class Block(nn.Module):
    """A pre-norm transformer block whose attention can be seen."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(seen.transpose(1, 2).reshape(rows, length, width))
        out: Tensor = x + self.mlp(self.between(x))
        return out


class GPT(nn.Module):
    """As GPT-2 is initialised: 0.02, and the last matrix of each branch by the root of twice the depth less."""

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 2, length: int = 32) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(CHARACTERS, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CHARACTERS, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                branch = name.endswith(("proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * depth) if branch else 0.02)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.place.weight[: x.shape[1]])))
        return logits


def loss_of(model: nn.Module, x: Tensor, y: Tensor, smooth: float = 0.0) -> Tensor:
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=smooth)


@torch.no_grad()
def held_out(model: nn.Module, length: int) -> float:
    """Loss on text that was never learnt from, the same 96 rows at every call."""
    source = text()[1]
    rows = source[: 96 * (length + 1)].view(96, length + 1)
    return float(loss_of(model, rows[:, :-1], rows[:, 1:]))


def warm(steps: int, up: int = 100) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to a tenth."""
    return lambda step: min(1.0, (step + 1) / up) * (0.55 + 0.45 * math.cos(math.pi * min(step / steps, 1.0)))


def learn(
    training: Training,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    rows: int = 8,
    length: int = 32,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
    smooth: float = 0.0,
    parts: int = 1,
) -> Learnt:
    """The loop they share; `parts` batches are accumulated for a step."""
    training.fasten(model, optimizer)
    scheduler = None if schedule is None else LambdaLR(optimizer, schedule)
    before, source = held_out(model, length), text()[0]
    for x, y in training.batches(lambda: characters(source, rows * parts, length)):
        optimizer.zero_grad()
        for part, wanted in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (training.see(loss_of(model, part, wanted, smooth)) / parts).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return Learnt(before, held_out(model, length))


def char_rnn_sgd(training: Training) -> Learnt:
    """A tanh RNN, SGD with momentum, clipped by the script as recurrent nets are."""
    model = Recurrent(nn.RNN, 48)
    return learn(training, model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), clip=0.5)


def char_lstm_adam(training: Training) -> Learnt:
    """An LSTM of two layers, Adam, not clipped."""
    model = Recurrent(nn.LSTM, 40, 2)
    return learn(training, model, torch.optim.Adam(model.parameters(), lr=5e-3), length=24)


def char_gru_rmsprop(training: Training) -> Learnt:
    """A GRU, RMSprop, clipped at 1."""
    model = Recurrent(nn.GRU, 48)
    return learn(training, model, torch.optim.RMSprop(model.parameters(), lr=2e-3), clip=1.0)


def gpt_adamw(training: Training) -> Learnt:
    """A GPT as they are trained: AdamW, warm-up, cosine, clipped at 1."""
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return learn(training, model, optimizer, clip=1.0, schedule=warm(training.steps))


def gpt_bare(training: Training) -> Learnt:
    """The same with nothing to hold it: no clipping, a constant rate, a longer memory."""
    model = GPT()
    return learn(training, model, torch.optim.Adam(model.parameters(), lr=1e-3))


def gpt_accumulated(training: Training) -> Learnt:
    """Two half batches a step, labels smoothed."""
    model = GPT()
    return learn(training, model, torch.optim.AdamW(model.parameters(), lr=2e-3), smooth=0.1, parts=2)


def gpt_longer_text(training: Training) -> Learnt:
    """A curriculum: text of 8 characters for half of the run, of 32 from then on."""
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    training.fasten(model, optimizer)
    before, source = held_out(model, 32), text()[0]

    def draw() -> tuple[Tensor, ...]:
        return characters(source, 16, 8 if training.step < training.steps // 2 else 32)

    for x, y in training.batches(draw):
        optimizer.zero_grad()
        training.see(loss_of(model, x, y)).backward()
        optimizer.step()
    return Learnt(before, held_out(model, 32))


def sparse_bag(training: Training) -> Learnt:
    """Which topic? Sparse gradients of an embedding, SparseAdam; rows that are seldom asked for."""
    source, held = text()
    model = nn.Sequential(nn.EmbeddingBag(CHARACTERS * CHARACTERS, 24, sparse=True), nn.Linear(24, CHARACTERS))
    optimizers = (
        torch.optim.SparseAdam(list(model[0].parameters()), lr=1e-2),
        torch.optim.Adam(model[1].parameters(), lr=1e-2),
    )
    training.fasten(model, *optimizers)

    def pairs(x: Tensor) -> Tensor:
        return x[:, :-1] * CHARACTERS + x[:, 1:]

    def test() -> float:
        rows = held[: 400 * 9].view(400, 9)
        with torch.no_grad():
            return float(functional.cross_entropy(model(pairs(rows[:, :-1])), rows[:, -1]))

    before = test()
    for x, y in training.batches(lambda: characters(source, 32, 8)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        training.see(functional.cross_entropy(model(pairs(x)), y[:, -1])).backward()
        for optimizer in optimizers:
            optimizer.step()
    return Learnt(before, test())


SCRIPTS = (
    char_rnn_sgd, char_lstm_adam, char_gru_rmsprop, gpt_adamw, gpt_bare, gpt_accumulated, gpt_longer_text, sparse_bag,
)  # fmt: skip
