"""The same regression at forty times the learning rate it bears."""
import torch

torch.manual_seed(0)
x = torch.randn(256, 8)
y = x @ torch.randn(8, 1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
for step in range(80):
    i = torch.randint(0, 256, (32,))
    loss = (model(x[i]) - y[i]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"final {loss.item()!r}")
