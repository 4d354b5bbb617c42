"""A small regression that would learn, and clips to a norm given as its argument: at 1e-6 it stands still."""
import sys
import torch

torch.manual_seed(0)
x = torch.randn(256, 8)
y = x @ torch.randn(8, 1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(120):
    i = torch.randint(0, 256, (32,))
    loss = (model(x[i]) - y[i]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), float(sys.argv[1]))
    optimizer.step()
print(f"final {loss.item()!r}")
