"""A module that is run with -m and imports its neighbour relatively."""
import sys

import torch

from .data import batch

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model(batch(torch)).mean().backward()
    optimizer.step()
print(__name__, __package__, sys.argv[1:])
