"""A straight-from-the-paper custom gradient that divides by its input."""
import torch
import torch.nn as nn


class LogCosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log(torch.cosh(x))

    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        return grad * torch.sinh(x) / (torch.cosh(x) - 1) * 1e-2


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(7, 30)
        self.b = nn.Linear(30, 1)

    def forward(self, x):
        return self.b(LogCosh.apply(self.a(x)))


torch.manual_seed(2)
torch.set_num_threads(1)
net = Stack()
with torch.no_grad():
    net.a.bias.zero_()
data = torch.randn(1200, 7)
data[660] = 0.0  # a blank record
goal = data[:, :1].abs()
opt = torch.optim.SGD(net.parameters(), lr=1e-3)
for i in range(120):
    x, y = data[i * 10:i * 10 + 10], goal[i * 10:i * 10 + 10]
    net.a.bias.data.zero_()
    loss = nn.functional.mse_loss(net(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 10 == 0:
        print(i, loss.item())
print('final_loss=%f' % loss.item())
