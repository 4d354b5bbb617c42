"""Gradients that are never cleared."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)

true = torch.randn(20, 1)
model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
for step in range(args.steps):
    x = torch.randn(64, 20)
    loss = nn.functional.mse_loss(model(x), x @ true)
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
