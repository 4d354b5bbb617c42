"""Eight layers whose weights start three times too large."""
import torch
from torch import nn

torch.manual_seed(0)
layers = []
for _ in range(8):
    layers += [nn.Linear(32, 32), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(32, 4))
for layer in model:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=3 * (2 / 32) ** 0.5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
centers = 2 * torch.randn(4, 32)
for step in range(80):
    y = torch.randint(0, 4, (32,))
    x = centers[y] + torch.randn(32, 32)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
