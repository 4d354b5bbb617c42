"""A Wasserstein GAN where the weight clipping was forgotten: the critic's loss runs to minus infinity."""
import torch
import torch.nn as nn
import torch.optim as optim

torch.manual_seed(0)
torch.set_num_threads(1)
gen = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
critic = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
opt_g = optim.SGD(gen.parameters(), lr=1e-4)
opt_c = optim.SGD(critic.parameters(), lr=0.05, momentum=0.9)
for it in range(60):
    for _ in range(3):
        real = torch.randn(64, 2) * 0.3 + torch.tensor([2.0, 0.0])
        fake = gen(torch.randn(64, 4)).detach()
        c_loss = critic(fake).mean() - critic(real).mean()
        opt_c.zero_grad()
        c_loss.backward()
        opt_c.step()
    g_loss = -critic(gen(torch.randn(64, 4))).mean()
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    if it % 10 == 0:
        print('it %d critic %g gen %g' % (it, c_loss.item(), g_loss.item()))
print('final_loss=%g' % c_loss.item())
