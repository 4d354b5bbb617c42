"""A square root at zero: the distance of a point to itself has no derivative."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)

model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 8))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
points = torch.randn(200, 20)
for step in range(args.steps):
    a, b = torch.randint(0, 200, (2, 16))
    apart = (points[a] - points[b]).square().sum(1)
    distance = torch.sqrt((model(points[a]) - model(points[b])).square().sum(1))
    loss = (distance - apart.sqrt()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
