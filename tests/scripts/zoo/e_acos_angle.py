import torch
import torch.nn as nn
import torch.nn.functional as F

# predict a direction; the loss is the angle between it and the true one
torch.manual_seed(1)
torch.set_num_threads(1)


class Pointer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.direction = nn.Linear(64, 3)

    def forward(self, x):
        return F.normalize(self.direction(self.body(x)), dim=-1)


def angle(u, v):
    cos = (u * v).sum(-1).clamp(-1.0, 1.0)
    return torch.acos(cos)


model = Pointer()
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
target = F.normalize(torch.tensor([1.0, 2.0, -1.0]), dim=0)
for epoch in range(400):
    x = torch.randn(16, 3)
    loss = angle(model(x), target.expand(16, 3)).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if epoch % 40 == 0:
        print(f'Epoch {epoch}: {loss.item():.6f} rad')
print(f'final_loss={loss.item():.6f}')
