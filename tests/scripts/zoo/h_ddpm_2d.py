"""Tiny DDPM; the per-batch loss never stops jumping."""
import torch
import torch.nn as nn

torch.manual_seed(21)
torch.set_num_threads(1)
T = 100
betas = torch.linspace(1e-4, 0.05, T)
abar = torch.cumprod(1 - betas, 0)


class EpsNet(nn.Module):
    def __init__(self, dim=2, hidden=96):
        super().__init__()
        self.t_embed = nn.Embedding(T, 32)
        self.net = nn.Sequential(nn.Linear(dim + 32, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                 nn.Linear(hidden, dim))

    def forward(self, x, t):
        return self.net(torch.cat([x, self.t_embed(t)], -1))


def spiral(n):
    r = torch.rand(n) * 3
    return torch.stack([r * torch.cos(4 * r), r * torch.sin(4 * r)], -1) / 1.5


model = EpsNet()
opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 800)
snr = abar / (1 - abar)
for i in range(800):
    x0 = spiral(16)
    t = torch.randint(0, T, (16,))
    noise = torch.randn_like(x0)
    xt = abar[t, None].sqrt() * x0 + (1 - abar[t, None]).sqrt() * noise
    # "x0 weighting": a few draws of small t dominate a batch
    w = snr[t].clamp(max=50).sqrt()
    loss = (w * (model(xt, t) - noise).pow(2).mean(1)).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
    if (i + 1) % 200 == 0:
        print(f'iter {i + 1}: loss={loss.item():.4f}')
print(f'final_loss={loss.item():.5f}')
