import torch
import torch.nn as nn

# beta-VAE with "annealing": beta is multiplied by 1.25 each iteration and nobody caps it
torch.manual_seed(0)
torch.set_num_threads(1)


class BetaVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(10, 8)
        self.dec = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        mu, logvar = self.enc(x).chunk(2, 1)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        return self.dec(z), mu, logvar


M = torch.randn(3, 10)
vae = BetaVAE()
opt = torch.optim.SGD(vae.parameters(), lr=0.02)
beta = 1e-4
for it in range(130):
    x = torch.randn(64, 3) @ M
    rec, mu, logvar = vae(x)
    kl = 0.5 * (mu ** 2 + logvar.exp() - logvar - 1).sum(1).mean()
    loss = ((rec - x) ** 2).mean() + beta * kl
    opt.zero_grad()
    loss.backward()
    opt.step()
    beta *= 1.25
    if it % 10 == 0:
        print('it', it, 'beta %.2e' % beta, 'loss', loss.item())
print('final_loss=%s' % loss.item())
