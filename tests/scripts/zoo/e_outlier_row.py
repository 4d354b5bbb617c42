"""House sizes in square metres, except for one that slipped in as 1e8."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class Houses(Dataset):
    def __init__(self, n=1600):
        g = torch.Generator().manual_seed(4)
        self.x = torch.randn(n, 6, generator=g)
        self.y = self.x @ torch.tensor([1.0, -2, 0.5, 0, 3, 1]) + 0.1 * torch.randn(n, generator=g)
        self.x[1444, 2] = 1e8

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


torch.manual_seed(4)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for step, (x, y) in enumerate(DataLoader(Houses(), batch_size=16)):
    loss = nn.functional.mse_loss(model(x).squeeze(1), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print('batch', step, 'loss', loss.item())
print('final_loss=%s' % loss.item())
