"""Sequence length: a net that learns over eight steps is given eighty as training goes on."""

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
        self.rnn.weight_hh_l0.data.copy_(1.1 * torch.eye(hidden))

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


model = Memory()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(args.steps):
    length = 8 if step < 60 else 80
    x = 0.3 * torch.randn(32, length, 2)
    loss = nn.functional.mse_loss(model(x), 3 * x[:, :, :1].sum(1) / length**0.5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} length {length} loss {loss.item():.4f}")
