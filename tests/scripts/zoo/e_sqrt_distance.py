import torch
import torch.nn as nn

# triplet-ish metric learning; now and then the sampler draws the same item twice
torch.manual_seed(0)
torch.set_num_threads(1)
items = torch.randn(300, 16)
cls = (items[:, 0] > 0).long() + 2 * (items[:, 1] > 0).long()


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x):
        return self.seq(x)


def distance(u, v):
    sq = ((u - v) ** 2).sum(dim=1)
    return torch.sqrt(sq)


net = Embedder()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
pairs = torch.randint(0, 300, (200, 24, 2))
same = pairs[..., 0] == pairs[..., 1]
pairs[..., 1] = torch.where(same, (pairs[..., 1] + 1) % 300, pairs[..., 1])
pairs[137, 5, 1] = pairs[137, 5, 0]
for i in range(200):
    a, b = pairs[i, :, 0], pairs[i, :, 1]
    d = distance(net(items[a]), net(items[b]))
    y = (cls[a] == cls[b]).float()
    loss = (y * d ** 2 + (1 - y) * (1 - d).clamp(min=0) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 20 == 0:
        print(i, loss.item())
print('final_loss=%f' % loss.item())
