"""Half precision: features in their natural units, squared, pass 65504."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)


class Net(nn.Module):
    """Squares its inputs, as a net does that is to learn an area."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(20, 64), nn.Linear(64, 1)

    def forward(self, x):
        hidden = self.first(x)
        return self.out(torch.nn.functional.layer_norm(hidden.square(), (64,)))


true = torch.randn(20, 1)
model = Net().half()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(args.steps):
    x = torch.randn(64, 20) * (1 + step)
    y = (x @ true / (1 + step)).square()
    loss = nn.functional.mse_loss(model(x.half()).float(), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
