"""Adding problem, 100 steps, vanilla tanh RNN whose recurrent matrix is drawn with gain 3."""
import argparse
import torch
import torch.nn as nn


class RNN(nn.Module):
    def __init__(self, n_in, n_hid):
        super().__init__()
        self.n_hid = n_hid
        self.i2h = nn.Linear(n_in, n_hid)
        self.h2h = nn.Linear(n_hid, n_hid, bias=False)
        self.h2o = nn.Linear(n_hid, 1)
        nn.init.normal_(self.h2h.weight, std=3 / n_hid ** 0.5)

    def forward(self, x):
        h = torch.zeros(x.size(1), self.n_hid)
        for t in range(x.size(0)):
            h = torch.tanh(self.i2h(x[t]) + self.h2h(h))
        return self.h2o(h)


def sample(T, B):
    v, m = torch.rand(T, B), torch.zeros(T, B)
    for b in range(B):
        i, j = torch.randperm(T)[:2]
        m[i, b] = m[j, b] = 1.0
    return torch.stack([v, m], -1), (v * m).sum(0).unsqueeze(1)


p = argparse.ArgumentParser()
p.add_argument('--T', type=int, default=100)
p.add_argument('--steps', type=int, default=70)
a = p.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
rnn = RNN(2, 48)
opt = torch.optim.SGD(rnn.parameters(), lr=0.01)
for s in range(a.steps):
    x, y = sample(a.T, 16)
    loss = nn.functional.mse_loss(rnn(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if s % 10 == 0:
        print(s, loss.item())
print('final_loss=%f' % loss.item())
