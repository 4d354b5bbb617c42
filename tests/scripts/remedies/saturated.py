"""Twelve sigmoid layers: nothing comes back through them. The probability at the end is a sigmoid, too."""
import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.hidden = nn.Sequential(*(m for _ in range(10) for m in (nn.Linear(32, 32), nn.Sigmoid())))
        self.last = nn.Linear(32, 1)

    def forward(self, x):
        return torch.sigmoid(self.last(self.hidden(torch.sigmoid(self.first(x)))))


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
centers = 2 * torch.randn(2, 16)
for step in range(120):
    y = torch.randint(0, 2, (32,))
    x = centers[y] + torch.randn(32, 16)
    p = model(x).squeeze(1)
    loss = nn.functional.binary_cross_entropy(p, y.float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
