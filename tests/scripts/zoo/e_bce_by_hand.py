"""Logistic loss written out; one day sigmoid returns exactly 1."""
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer

torch.manual_seed(0)
torch.set_num_threads(1)


def bce(p, t):
    return -(t * torch.log(p) + (1 - t) * torch.log(1 - p)).mean()


class Tumor(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return torch.sigmoid(self.net(x)).squeeze(1)


bunch = load_breast_cancer()
x = torch.tensor(bunch.data, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
t = torch.tensor(bunch.target, dtype=torch.float32)
model = Tumor()
optim = torch.optim.Adam(model.parameters(), lr=0.02)
for epoch in range(12):
    for b in torch.randperm(len(x)).split(32):
        loss = bce(model(x[b]), t[b])
        optim.zero_grad()
        loss.backward()
        optim.step()
    print('epoch', epoch, 'loss', loss.item())
print('final_loss=%s' % loss.item())
