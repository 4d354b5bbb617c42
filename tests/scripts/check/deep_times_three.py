"""Twelve plain ReLU layers with weights three times He's."""
import math

import torch
from torch import nn

torch.manual_seed(0)
layers = [nn.Linear(16, 64)]
for _ in range(11):
    layers += [nn.ReLU(), nn.Linear(64, 64)]
model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 4))
for layer in layers[::2]:
    nn.init.normal_(layer.weight, std=3 * math.sqrt(2 / layer.in_features))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(100):
    print("step", step)
    loss = nn.functional.cross_entropy(model(torch.randn(32, 16)), torch.randint(0, 4, (32,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
