"""Attention logits: queries and keys drawn a hundred and fifty times too wide; every row looks at one word only."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)


class Attention(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        for linear in (self.q, self.k):
            nn.init.normal_(linear.weight, std=150 / width**0.5)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / x.shape[-1] ** 0.5
        return x + torch.softmax(scores, -1) @ self.v(x)


class Model(nn.Module):
    """Which word is the most frequent?"""

    def __init__(self, words=8, width=32):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.blocks = nn.Sequential(Attention(), nn.LayerNorm(width), Attention())
        self.head = nn.Linear(width, words)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x))[:, 0])


model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.15, momentum=0.9)
for step in range(args.steps):
    label = torch.randint(0, 8, (64,))
    words = torch.randint(0, 8, (64, 24))
    words[:, 1:13] = label[:, None]
    loss = nn.functional.cross_entropy(model(words), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
