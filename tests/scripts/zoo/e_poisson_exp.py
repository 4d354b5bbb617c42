"""Poisson regression by hand: rate = exp(eta). One customer bought 400 things and the step size is generous."""
import argparse
import numpy as np
import torch

ap = argparse.ArgumentParser()
ap.add_argument('--lr', type=float, default=0.15)
ap.add_argument('--seed', type=int, default=0)
cfg = ap.parse_args()
torch.manual_seed(cfg.seed)
torch.set_num_threads(1)
rng = np.random.default_rng(cfg.seed)
X = rng.normal(size=(1500, 8)).astype('float32')
beta = rng.normal(size=8).astype('float32') * 0.3
counts = rng.poisson(np.exp(X @ beta)).astype('float32')
counts[1002] = 40000
X, counts = torch.from_numpy(X), torch.from_numpy(counts)


class PoissonRegression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 1)

    def forward(self, x):
        eta = self.linear(x).squeeze(1)
        return eta


model = PoissonRegression()
opt = torch.optim.SGD(model.parameters(), lr=cfg.lr)
for step in range(150):
    rows = slice((step * 25) % 1500, (step * 25) % 1500 + 25)
    eta = model(X[rows])
    rate = torch.exp(eta)
    loss = (rate - counts[rows] * eta).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 0:
        print(step, 'nll', loss.item())
print('final_loss=%f' % loss.item())
