import torch
from torch import nn, optim

# time-to-failure regression; a -1e7 "unknown" placeholder was left among the targets
torch.manual_seed(30)
torch.set_num_threads(1)
N = 3000
feats = torch.randn(N, 9)
ttf = torch.nn.functional.softplus(feats[:, 0] * 2 + feats[:, 1]) + 0.2 * torch.rand(N)
ttf[2015] = -1e7
model = nn.Sequential(nn.Linear(9, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 1))
opt = optim.SGD(model.parameters(), lr=0.02)
for i in range(150):
    sl = slice(i * 20, i * 20 + 20)
    opt.zero_grad()
    pred = model(feats[sl]).squeeze(1)
    loss = (pred - ttf[sl]).pow(2).mean()
    loss.backward()
    opt.step()
    if not i % 25:
        print(i, loss.item())
print('final_loss=%g' % loss.item())
