"""Columns in the units they were measured in: years, metres, cents."""
import torch

torch.manual_seed(0)
z = torch.randn(512, 3)
x = z * torch.tensor([12.0, 0.3, 4000.0]) + torch.tensor([40.0, 1.7, 250000.0])
y = z[:, :1] + torch.sin(2 * z[:, 1:2]) - z[:, 2:]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 64), torch.nn.Linear(64, 1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(150):
    i = torch.randint(0, 512, (64,))
    loss = (model(x[i]) - y[i]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
