"""Autoencoder pre-training (loss about 0.02), then a classifier on top with a fresh optimizer (loss starts at 2.3, a hundred times more)."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.set_num_threads(1)


def pretrain(enc, dec, X, steps):
    opt = torch.optim.Adam([*enc.parameters(), *dec.parameters()], lr=2e-3)
    for i in range(steps):
        xb = X[torch.randint(0, len(X), (64,))]
        loss = F.mse_loss(dec(enc(xb)), xb)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 100 == 0:
            print('pretrain', i, loss.item())


def finetune(enc, head, X, y, steps):
    opt = torch.optim.SGD([{'params': enc.parameters(), 'lr': 0.02}, {'params': head.parameters(), 'lr': 0.2}],
                          momentum=0.9)
    for i in range(steps):
        b = torch.randint(0, len(X), (64,))
        loss = F.cross_entropy(head(enc(X[b])), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 50 == 0:
            print('finetune', i, loss.item())
    return loss.item()


if __name__ == '__main__':
    torch.manual_seed(8)
    d = load_digits()
    X, y = torch.tensor(d.data, dtype=torch.float32) / 16, torch.tensor(d.target)
    enc = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24), nn.ReLU())
    dec = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64))
    pretrain(enc, dec, X, 400)
    print('final_loss=%.5f' % finetune(enc, nn.Linear(24, 10), X, y, 200))
