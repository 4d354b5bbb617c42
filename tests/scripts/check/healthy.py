"""Four small networks that train well as they are: mlp, resnet, lstm or gpt."""
import sys

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        block = nn.TransformerEncoderLayer(32, 4, 128, norm_first=True, batch_first=True, dropout=0.0)
        self.blocks, self.head = nn.TransformerEncoder(block, 6, enable_nested_tensor=False), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))


kind = sys.argv[1]
model, x = {
    "mlp": lambda: (nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64),
                                  nn.ReLU(), nn.Linear(64, 4)), torch.randn(32, 16)),
    "resnet": lambda: (nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *(Residual() for _ in range(8)), nn.Flatten(),
                                     nn.Linear(8 * 64, 4)), torch.randn(32, 1, 8, 8)),
    "lstm": lambda: (Last(), torch.randn(32, 60, 16)),
    "gpt": lambda: (Gpt(), torch.randint(0, 50, (32, 24))),
}[kind]()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(3):
    loss = F.cross_entropy(model(x), torch.randint(0, 4, (32,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
