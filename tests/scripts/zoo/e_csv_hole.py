"""A CSV with an empty cell; genfromtxt reads it as nan."""
import io
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
rng = np.random.default_rng(0)
rows = []
for i in range(960):
    v = rng.normal(size=5)
    cells = ['%.4f' % c for c in v] + ['%.4f' % (v[0] - 2 * v[3] + 0.1 * rng.normal())]
    if i == 709:
        cells[2] = ''
    rows.append(','.join(cells))
table = np.genfromtxt(io.StringIO('\n'.join(rows)), delimiter=',', dtype=np.float32)
features, target = torch.from_numpy(table[:, :5]), torch.from_numpy(table[:, 5:])


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(5, 24)
        self.fc2 = nn.Linear(24, 1)

    def forward(self, x):
        return self.fc2(nn.functional.leaky_relu(self.fc1(x)))


model = Regressor()
opt = torch.optim.Adagrad(model.parameters(), lr=0.05)
for step in range(120):
    x, t = features[step * 8:step * 8 + 8], target[step * 8:step * 8 + 8]
    loss = nn.functional.l1_loss(model(x), t)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 20 == 0:
        print(step, loss.item())
print('final_loss=%f' % loss.item())
