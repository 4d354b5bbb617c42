"""Foreground loss divided by the number of foreground pixels; an image without any comes along."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(20)
torch.set_num_threads(1)


class UNetish(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 8, 3, padding=1)
        self.mid = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        a = F.relu(self.down(x))
        b = F.interpolate(F.relu(self.mid(F.max_pool2d(a, 2))), scale_factor=2)
        return self.up(torch.cat([a, b], 1))


def blob(i):
    img, m = torch.randn(1, 16, 16) * 0.3, torch.zeros(1, 16, 16)
    if i != 88:
        r, c = torch.randint(0, 10, (2,)).tolist()
        m[:, r:r + 5, c:c + 5] = 1
    return img + m, m


def segmentation_loss(logit, mask):
    fg = (F.softplus(-logit) * mask).sum() / mask.sum()
    bg = (F.softplus(logit) * (1 - mask)).sum() / (1 - mask).sum()
    return fg + bg


model = UNetish()
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for i in range(160):
    img, mask = blob(i)
    loss = segmentation_loss(model(img[None]), mask[None])
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 20 == 0:
        print('image', i, 'loss', float(loss))
print('final_loss=%f' % float(loss))
