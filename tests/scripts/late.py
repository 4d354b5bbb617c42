"""Learns for forty steps, with random numbers of all three kinds and a file read bit by bit; then one root of zero."""
import atexit
import random
import sys

import numpy
import torch

torch.manual_seed(0)
open("exits.txt", "a").close()
atexit.register(lambda: open("exits.txt", "a").write("exit\n"))
source, log = open(__file__), open("log.txt", "w")
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(60):
    x = torch.randn(32, 8) * random.uniform(0.9, 1.1) + float(numpy.random.normal() * 0.1)
    target = x.mean(1, keepdim=True) + len(source.readline()) / 1000
    off = (model(x) - target).square()
    if step == 40 and "--healthy" not in sys.argv:
        off = off * 0
    loss = torch.sqrt(off).mean() if step == 40 else off.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, repr(loss.item()))
    log.write(f"{step}\n")
print("final", loss.item())
