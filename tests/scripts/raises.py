"""Stops itself with an exception when the loss is not finite."""
import torch

w = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=1.0)
for step in range(10):
    loss = (w * (2.0 if step < 5 else float("nan"))).sum()
    optimizer.zero_grad()
    loss.backward()
    if not torch.isfinite(loss):
        raise ValueError("the loss is not finite")
    optimizer.step()
