"""A softmax over nothing: now and then a sentence is all padding, and its row is masked from end to end."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)


class Pool(nn.Module):
    def __init__(self, words=50, width=32):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.score, self.out = nn.Linear(width, 1), nn.Linear(width, 2)

    def forward(self, words):
        x = self.embed(words)
        scores = self.score(x).squeeze(-1).masked_fill(words == 0, float("-inf"))
        return self.out((torch.softmax(scores, -1).unsqueeze(-1) * x).sum(1))


model = Pool()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(args.steps):
    lengths = torch.randint(0 if step > args.steps // 2 else 1, 12, (64,))
    words = torch.randint(1, 50, (64, 12)) * (torch.arange(12) < lengths[:, None])
    label = (words[:, 0] > 25).long()
    loss = nn.functional.cross_entropy(model(words), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
