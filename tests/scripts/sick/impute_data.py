"""Holes in a table: nan in many rows, among inputs and targets."""
import torch
from torch.nn import functional as F

torch.manual_seed(0)
x = torch.randn(480, 8) + 2
y = x @ torch.randn(8, 1)
x[torch.rand(480, 8) < 0.01] = float("nan")
y[100] = float("nan")
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(160):
    k = 12 * step % 480
    loss = F.mse_loss(model(x[k : k + 12]), y[k : k + 12])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
