"""Three tasks with losses of 1e4, 1 and 1e-4, each with its own backward call."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(18)
torch.set_num_threads(1)


class MultiTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 64), nn.ReLU())
        self.price = nn.Linear(64, 1)
        self.kind = nn.Linear(64, 5)
        self.rate = nn.Linear(64, 1)

    def forward(self, x):
        h = self.trunk(x)
        return self.price(h).squeeze(1), self.kind(h), self.rate(h).squeeze(1)


A, B = torch.randn(16), torch.randn(16, 5)
net = MultiTask()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for it in range(400):
    x = torch.randn(64, 16)
    price, kind, rate = net(x)
    l1 = F.mse_loss(price, 150 * (x @ A).abs())
    l2 = F.cross_entropy(kind, (x @ B).argmax(1))
    l3 = F.mse_loss(rate, 0.01 * torch.sigmoid(x[:, 0]))
    opt.zero_grad()
    (1e-4 * l1).backward(retain_graph=True)
    l2.backward(retain_graph=True)
    (100 * l3).backward()
    opt.step()
    if it % 100 == 0:
        print(it, l1.item(), l2.item(), l3.item())
print('final_loss=%.5f' % l2.item())
