"""Squares between the layers: the size of the signal is squared as well."""
import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).square()
        return self.last(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
centers = 2 * torch.randn(4, 16)
for step in range(80):
    y = torch.randint(0, 4, (32,))
    x = 3 * (centers[y] + torch.randn(32, 16))
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
