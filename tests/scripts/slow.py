"""Trains until somebody stops it."""
import time
import torch

w = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.001)
print("started", flush=True)
try:
    while True:
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        time.sleep(0.005)
finally:
    print("cleaned up", flush=True)
