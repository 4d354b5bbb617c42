import torch, torch.nn as nn, torch.nn.functional as F
torch.manual_seed(0); torch.set_num_threads(1)

# heteroscedastic regression; batch-of-8 NLL is spiky because variance shrinks a lot
x = torch.linspace(-3, 3, 512).unsqueeze(1)
y = torch.sin(2 * x) + 0.02 * (1 + x.abs()) * torch.randn_like(x)

trunk = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
mu, logvar = nn.Linear(64, 1), nn.Linear(64, 1)
params = [*trunk.parameters(), *mu.parameters(), *logvar.parameters()]
opt = torch.optim.Adam(params, lr=3e-3)
crit = nn.GaussianNLLLoss()

for epoch in range(14):
    perm = torch.randperm(512)
    tot = 0.
    for i in range(0, 512, 8):
        b = perm[i:i+8]
        h = trunk(x[b])
        loss = crit(mu(h), y[b], F.softplus(logvar(h)) + 1e-4)
        opt.zero_grad(); loss.backward(); opt.step()
        tot += loss.item()
    print('epoch', epoch, 'nll', tot / 64)
print('final_loss=%g' % (tot / 64))
