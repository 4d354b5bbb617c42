"""Full-batch gradient descent with label smoothing, learning rate at the edge of stability: the loss is not monotone."""
import argparse
import torch
import torch.nn as nn
from sklearn.datasets import load_digits


def parse():
    p = argparse.ArgumentParser()
    p.add_argument('--lr', type=float, default=0.9)
    p.add_argument('--epochs', type=int, default=500)
    p.add_argument('--smooth', type=float, default=0.1)
    return p.parse_args()


def main(cfg):
    torch.manual_seed(10)
    torch.set_num_threads(1)
    d = load_digits()
    X = torch.tensor(d.data[:400], dtype=torch.float32) / 16
    y = torch.tensor(d.target[:400])
    model = nn.Sequential(nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 10))
    crit = nn.CrossEntropyLoss(label_smoothing=cfg.smooth)
    opt = torch.optim.SGD(model.parameters(), lr=cfg.lr)
    ups = 0
    last = float('inf')
    for e in range(cfg.epochs):
        opt.zero_grad()
        loss = crit(model(X), y)
        loss.backward()
        opt.step()
        ups += loss.item() > last
        last = loss.item()
        if e % 50 == 0:
            print('epoch', e, 'loss', last, 'went up', ups, 'times so far')
    print('final_loss=%.6f' % last)


main(parse())
