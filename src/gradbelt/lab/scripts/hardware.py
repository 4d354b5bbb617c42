"""Hardware: once, in one weight, the highest bit of an exponent flips. It would not happen again."""

# the file that is left beside the script stands for a device that failed once: a second run finds it and goes well

import argparse
import pathlib

import numpy
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()
torch.manual_seed(args.seed)

FLIPPED = pathlib.Path(__file__).with_suffix(f".flipped-{args.seed}")
true = torch.randn(20, 1)
model = nn.Sequential(nn.Linear(20, 48), nn.Tanh(), nn.Linear(48, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
fails_at = None if FLIPPED.exists() else 30 + args.seed
for step in range(args.steps):
    x = torch.randn(64, 20)
    loss = nn.functional.mse_loss(model(x), x @ true)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == fails_at:
        FLIPPED.touch()
        model[2].weight.data.view(-1)[:1].numpy().view(numpy.uint32)[0] ^= 1 << 30
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")
