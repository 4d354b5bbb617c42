"""A log inside a block inside a stage inside an encoder; its input has been drifting towards zero."""
import torch
import torch.nn as nn


class Compress(nn.Module):
    """log compression of a spectrogram-like feature"""

    def __init__(self, d):
        super().__init__()
        self.shift = nn.Parameter(torch.full((d,), 1.5))

    def forward(self, x):
        return torch.log(x.abs() + self.shift)


class Block(nn.Module):
    def __init__(self, d, compress):
        super().__init__()
        self.proj = nn.Linear(d, d)
        self.act = Compress(d) if compress else nn.GELU()

    def forward(self, x):
        return self.act(self.proj(x))


class Encoder(nn.Module):
    def __init__(self, d=24):
        super().__init__()
        self.stages = nn.ModuleDict({
            'early': nn.Sequential(Block(d, False), Block(d, False)),
            'late': nn.Sequential(Block(d, False), Block(d, True))})

    def forward(self, x):
        return self.stages['late'](self.stages['early'](x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()

    def forward(self, x):
        return self.encoder(x).mean(1, keepdim=True)


torch.manual_seed(0)
torch.set_num_threads(1)
model = Model()
opt = torch.optim.Adam(model.parameters(), lr=0.01)
for i in range(250):
    x = torch.randn(16, 24)
    loss = (model(x) + 2 + x[:, :1] ** 2).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 20 == 0:
        print(i, loss.item())
print('final_loss=%f' % loss.item())
