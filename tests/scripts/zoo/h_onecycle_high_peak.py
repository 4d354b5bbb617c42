import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import OneCycleLR

torch.manual_seed(31)
torch.set_num_threads(1)
imgs, labels = load_digits(return_X_y=True)
imgs = torch.tensor(imgs.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
labels = torch.tensor(labels)


def conv_bn(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class Res(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = conv_bn(c, c), conv_bn(c, c)

    def forward(self, x):
        return x + self.b(self.a(x))


model = nn.Sequential(conv_bn(1, 16), Res(16), nn.MaxPool2d(2), conv_bn(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(32, 10))
EPOCHS, BS = 5, 64
opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.95, weight_decay=5e-4)
sched = OneCycleLR(opt, max_lr=1.0, total_steps=EPOCHS * (1536 // BS), pct_start=0.3)
for ep in range(EPOCHS):
    order = torch.randperm(1536)
    for b in order.split(BS):
        loss = F.cross_entropy(model(imgs[b]), labels[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    model.eval()
    with torch.no_grad():
        vl = F.cross_entropy(model(imgs[1536:]), labels[1536:]).item()
    model.train()
    print(f'epoch {ep}: train {loss.item():.4f} valid {vl:.4f}')
print(f'final_loss={vl:.5f}')
