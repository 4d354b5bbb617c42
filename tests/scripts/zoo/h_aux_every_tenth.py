"""A gradient penalty is added to the loss at every tenth step only ('lazy regularisation', as in StyleGAN2)."""
import torch
import torch.nn as nn
from torch.nn import functional as F

torch.manual_seed(9)
torch.set_num_threads(1)
LAZY = 10


class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, 64), nn.Softplus(), nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 1))

    def forward(self, x):
        return self.f(x).squeeze(-1)


net = Scorer()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
for i in range(400):
    x = torch.randn(64, 6)
    y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).float()
    loss = F.binary_cross_entropy_with_logits(net(x), y)
    if i % LAZY == 0:
        xr = x.detach().requires_grad_(True)
        g, = torch.autograd.grad(net(xr).sum(), xr, create_graph=True)
        loss = loss + LAZY * 2.0 * g.pow(2).sum(1).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 50 in (0, 1):
        print(i, loss.item())
print('final_loss=%.5f' % loss.item())
