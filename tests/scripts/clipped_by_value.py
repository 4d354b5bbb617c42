"""Learns, with each gradient cut number by number to a bound that most of its numbers are beyond."""
import torch

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
x = torch.randn(512, 20)
y = x[:, :5].sin().sum(dim=1, keepdim=True)
for step in range(60):
    optimizer.zero_grad()
    loss = (net(x) - y).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_value_(net.parameters(), 0.003)
    optimizer.step()
print(f"final {loss.item()!r}")
