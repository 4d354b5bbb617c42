"""Depth: sixty layers, each drawn twelve hundredths wider than He says."""

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


model = nn.Sequential()
for i in range(60):
    model.append(nn.Linear(20 if i == 0 else 48, 48))
    model.append(nn.ReLU())
model.append(nn.Linear(48, 4))
for layer in model:
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight)
        layer.weight.data.mul_(1.12)
        nn.init.zeros_(layer.bias)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(args.steps):
    x, label = batch()
    loss = nn.functional.cross_entropy(model(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
