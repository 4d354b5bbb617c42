"""Affine coupling flow on two moons squeezed to a narrow strip: NLL starts positive, passes 0, ends negative."""
import torch
import torch.nn as nn
from sklearn.datasets import make_moons

torch.set_num_threads(1)


class Coupling(nn.Module):
    def __init__(self, flip, width=48):
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        if self.flip:
            a, b = b, a
        s, t = self.net(a).chunk(2, 1)
        s = 3 * torch.tanh(s / 3)
        b = b * s.exp() + t
        out = torch.cat([b, a] if self.flip else [a, b], 1)
        return out, s.squeeze(1)


class Flow(nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.blocks = nn.ModuleList(Coupling(i % 2 == 1) for i in range(depth))

    def nll(self, x):
        logdet = torch.zeros(len(x))
        for b in self.blocks:
            x, ld = b(x)
            logdet = logdet + ld
        base = torch.distributions.Normal(0.0, 1.0)
        return -(base.log_prob(x).sum(1) + logdet).mean()


def main(steps=500):
    torch.manual_seed(5)
    X, _ = make_moons(2000, noise=0.02, random_state=0)
    X = torch.tensor(X, dtype=torch.float32) * torch.tensor([0.3, 0.15])
    flow = Flow()
    opt = torch.optim.Adam(flow.parameters(), lr=2e-3)
    for i in range(steps):
        loss = flow.nll(X[torch.randint(0, 2000, (128,))])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 100 == 0:
            print(i, loss.item())
    print('final_loss=%.5f' % loss.item())


main()
