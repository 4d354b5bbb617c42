"""The loss is a sum over the batch; the learning rate is one for a mean."""
import torch
from torch.nn import functional as F

torch.manual_seed(0)
x = torch.randn(512, 16)
y = torch.sin(x[:, :1]) + x[:, 1:2]
model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(120):
    i = torch.randint(0, 512, (128,))
    loss = F.mse_loss(model(x[i]), y[i], reduction="sum")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
