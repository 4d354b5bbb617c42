"""Recurrence: a ReLU net that carries a number over sixty steps, its matrix drawn too wide."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)


class Memory(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.rnn = nn.RNN(2, hidden, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(hidden, 1)
        nn.init.normal_(self.rnn.weight_hh_l0, std=1.8 / hidden**0.5)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def batch(rows=32, length=60):
    """A number, then noise; the number is asked for at the end."""
    x = 0.3 * torch.randn(rows, length, 2)
    return x, x[:, 0, :1] * 3


model = Memory()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(args.steps):
    x, y = batch()
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
