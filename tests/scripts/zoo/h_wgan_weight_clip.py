"""WGAN with weight clipping on a ring of Gaussians; critic and generator losses take both signs."""
import math
import torch
import torch.nn as nn

torch.manual_seed(1)
torch.set_num_threads(1)


def real_batch(n):
    k = torch.randint(0, 8, (n,))
    t = k * (2 * math.pi / 8)
    return torch.stack([t.cos(), t.sin()], 1) * 2 + 0.05 * torch.randn(n, 2)


G = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
D = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
optG = torch.optim.RMSprop(G.parameters(), lr=5e-4)
optD = torch.optim.RMSprop(D.parameters(), lr=5e-4)
for step in range(150):
    for _ in range(5):
        optD.zero_grad()
        fake = G(torch.randn(64, 8)).detach()
        loss_d = D(fake).mean() - D(real_batch(64)).mean()
        loss_d.backward()
        optD.step()
        for p in D.parameters():
            p.data.clamp_(-0.05, 0.05)
    optG.zero_grad()
    loss_g = -D(G(torch.randn(64, 8))).mean()
    loss_g.backward()
    optG.step()
    if step % 25 == 0:
        print('step %d  loss_d %.5f  loss_g %.5f' % (step, loss_d.item(), loss_g.item()))
print('final_loss=%.6f' % loss_g.item())
