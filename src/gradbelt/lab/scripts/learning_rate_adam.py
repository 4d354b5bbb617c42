"""Learning rate: Adam moves every weight by the rate itself, and it is a third."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)

true = torch.randn(20, 1)
model = nn.Sequential(nn.Linear(20, 48), nn.ReLU())
for _ in range(4):
    model.extend([nn.Linear(48, 48), nn.ReLU()])
model.append(nn.Linear(48, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
for step in range(args.steps):
    x = torch.randn(512, 20)
    loss = nn.functional.mse_loss(model(x), x @ true)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
