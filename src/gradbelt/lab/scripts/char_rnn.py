"""A character model of Python's own help texts: a two-layer ReLU RNN, walked back over 64 characters.

The learning rate is warmed up to a value copied from a feed-forward net, and nothing clips. It goes well for a while.
"""

import argparse
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--lr", type=float, default=2.0)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--length", type=int, default=64)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
torch.set_num_threads(1)

text = "".join(topics[name] for name in sorted(topics))
characters = sorted(set(text))
index = {character: i for i, character in enumerate(characters)}
data = torch.tensor([index[character] for character in text])
train, held_out = data[:-20_000], data[-20_000:]


class CharacterModel(nn.Module):
    """Characters in, the logits of the next character out."""

    def __init__(self, size, hidden):
        super().__init__()
        self.embedding = nn.Embedding(size, 32)
        self.rnn = nn.RNN(32, hidden, num_layers=2, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(hidden, size)

    def forward(self, x):
        hidden, _ = self.rnn(self.embedding(x))
        return self.out(hidden)


def batch(source, rows=32):
    """Rows of text, and the same rows one character further on."""
    starts = torch.randint(len(source) - args.length - 1, (rows,))
    rows = torch.stack([source[start : start + args.length + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


def loss_of(model, x, y):
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


model = CharacterModel(len(characters), args.hidden)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=200)
for step in range(args.steps):
    loss = loss_of(model, *batch(train))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    warmup.step()
    if step % 50 == 0:
        print(f"step {step:4d}  loss {loss.item():.3f}")

with torch.no_grad():
    print(f"held-out loss {loss_of(model, *batch(held_out, 128)).item():.3f}")
