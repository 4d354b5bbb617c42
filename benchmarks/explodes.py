"""A training script that breaks at its last step but one; what `bench_reproduce` runs. Not a benchmark by itself.

python -m benchmarks.explodes KIND STEPS
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.bench_watch import Gpt, Lstm, Training


def small() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Layers so small that a step is all overhead."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def loss() -> Tensor:
        x = torch.randn(64, 64)
        return functional.mse_loss(model(x), x[:, :1])

    return model, loss


def characters(kind: type[Lstm] | type[Gpt]) -> tuple[nn.Module, Callable[[], Tensor]]:
    training = Training(kind, torch.device("cpu"))
    return training.model, training.loss


def main(kind: str, steps: int) -> None:
    torch.manual_seed(0)
    model, loss_of = small() if kind == "small" else characters({"lstm": Lstm, "gpt": Gpt}[kind])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(steps):
        loss = loss_of()
        if step == steps - 2:
            loss = torch.log(loss * 0 - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
