"""Activation: tanh between weights drawn for ReLU and doubled; values stay at one, gradients grow."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)

centres = 2 * torch.randn(4, 20)


def batch(rows=64):
    """Points around four centres, and which of them."""
    label = torch.randint(0, 4, (rows,))
    return centres[label] + torch.randn(rows, 20), label


class Net(nn.Module):
    def __init__(self, width=48, depth=80):
        super().__init__()
        self.first = nn.Linear(20, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 4)
        for linear in self.hidden:
            nn.init.normal_(linear.weight, std=2.83 / width**0.5)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for linear in self.hidden:
            x = torch.tanh(linear(x))
        return self.out(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(args.steps):
    x, label = batch()
    loss = nn.functional.cross_entropy(model(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
