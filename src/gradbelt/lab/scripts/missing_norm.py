"""No normalisation: twenty-four layers of a size that trains well only while nothing shifts."""

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
    def __init__(self, width=64, depth=24):
        super().__init__()
        self.embed = nn.Linear(20, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 4)
        for linear in self.layers:
            nn.init.kaiming_normal_(linear.weight)

    def forward(self, x):
        x = self.embed(x)
        for linear in self.layers:
            x = torch.relu(linear(x))
        return self.head(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(args.steps):
    x, label = batch()
    loss = nn.functional.cross_entropy(model(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
