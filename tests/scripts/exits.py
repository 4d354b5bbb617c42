"""Ends with an exit code of its own."""
import sys
import torch

w = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.1)
(w * w).sum().backward()
optimizer.step()
print("bye")
sys.exit(7)
