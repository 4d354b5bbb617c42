"""Sixty layers in a row, each a little too strong; activations are functions."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(16, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(60))
        self.leave = nn.Linear(32, 4)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=1.15 * (2 / 32) ** 0.5)

    def forward(self, x):
        x = F.relu(self.enter(x))
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.leave(x)


model = Deep()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
centers = 2 * torch.randn(4, 16)
for step in range(80):
    y = torch.randint(0, 4, (32,))
    x = centers[y] + torch.randn(32, 16)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
