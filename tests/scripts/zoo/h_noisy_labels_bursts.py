"""A few batches are entirely mislabelled: single-batch losses fifty times the usual, nothing lasting."""
import torch
import torch.nn as nn
from sklearn.datasets import load_iris

torch.manual_seed(13)
torch.set_num_threads(1)
X, y = load_iris(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
keep = y != 1
X, y = X[keep], (y[keep] == 2).long()

net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
worst = 0.0
bad_steps = {170, 340, 430, 700}
for i in range(900):
    b = torch.randint(0, len(X), (16,))
    target = 1 - y[b] if i in bad_steps else y[b]
    loss = nn.functional.cross_entropy(net(X[b]), target)
    worst = max(worst, loss.item() if i in bad_steps else 0)
    opt.zero_grad()
    loss.backward()
    opt.step()
print('worst batch', worst)
print('final_loss=%.6f' % loss.item())
