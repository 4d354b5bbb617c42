"""A loss that is summed over the batch where a mean was meant: the step is two hundred times as long."""

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


model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss(reduction="sum")
for step in range(args.steps):
    x, label = batch(256)
    loss = criterion(model(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
