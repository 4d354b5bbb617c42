"""A gate that starts closed (bias -55) and Adam with eps 1e-30: its squared gradients underflow, its update does not."""
import torch
import torch.nn as nn


class Gated(nn.Module):
    def __init__(self, d=16):
        super().__init__()
        self.main = nn.Linear(8, d)
        self.side = nn.Linear(8, d)
        self.gate = nn.Parameter(torch.full((d,), -55.0))
        self.out = nn.Linear(d, 1)

    def forward(self, x):
        return self.out(torch.tanh(self.main(x)) + torch.sigmoid(self.gate) * self.side(x))


torch.manual_seed(0)
torch.set_num_threads(1)
net = Gated()
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, eps=1e-30)
for it in range(70):
    x = torch.randn(32, 8)
    y = x[:, :1] * x[:, 1:2]
    loss = (net(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if it % 10 == 0:
        print(it, loss.item())
print('final_loss=%f' % loss.item())
