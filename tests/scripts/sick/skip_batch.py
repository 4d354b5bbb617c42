"""Two rows hold what a logger writes where it has measured nothing."""
import torch

torch.manual_seed(0)
x = torch.randn(480, 8)
y = x @ torch.randn(8, 1)
x[170, 2] = -9999.0
y[330] = -9999.0
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(160):
    k = 12 * step % 480
    loss = (model(x[k : k + 12]) - y[k : k + 12]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
