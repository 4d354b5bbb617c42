"""Warm-up to a peak that is far too high: fine for the first forty steps."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(3)
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(20, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(),
                    nn.Linear(96, 1))
teacher = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 1)).requires_grad_(False)
opt = torch.optim.Adam(net.parameters(), lr=1.0)


def lr_at(step):
    if step < 40:
        return 1e-3
    return 1e-3 * 1.35 ** (step - 40) if step < 64 else 1.0


for step in range(160):
    for g in opt.param_groups:
        g['lr'] = lr_at(step)
    x = torch.randn(64, 20)
    loss = F.mse_loss(net(x), teacher(x))
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 0:
        print(step, 'lr %.4f' % lr_at(step), 'loss', loss.item())
print('final_loss=%.6g' % loss.item())
