import torch
from torch import nn

# set pooling with "log mask": scores + mask.log(), as in many older attention codes (log 0 = -inf on purpose)
torch.manual_seed(4)
torch.set_num_threads(1)


class LogMaskPool(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(5, d), nn.ReLU())
        self.score = nn.Linear(d, 1)
        self.out = nn.Linear(d, 3)

    def forward(self, x, mask):
        h = self.embed(x)
        a = self.score(h).squeeze(-1) + mask.log()
        w = torch.softmax(a, dim=1)
        return self.out((w.unsqueeze(-1) * h).sum(1))


def batch(n=32, L=12):
    lens = torch.randint(1, L + 1, (n,))
    mask = (torch.arange(L)[None, :] < lens[:, None]).float()
    x = torch.randn(n, L, 5) * mask.unsqueeze(-1)
    top = (x[..., 0] + (mask - 1) * 1e3).argmax(1)
    y = x[torch.arange(n), top, 1:4].argmax(1)
    return x, mask, y


model = LogMaskPool(48)
opt = torch.optim.NAdam(model.parameters(), lr=5e-3)
ce = nn.CrossEntropyLoss()
avg = None
for step in range(500):
    x, m, y = batch()
    loss = ce(model(x, m), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    avg = loss.item() if avg is None else 0.98 * avg + 0.02 * loss.item()
    if step % 100 == 99:
        print('step', step, 'avg loss', round(avg, 4))
print('final_loss=%f' % avg)
