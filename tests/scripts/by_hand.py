"""Gradient descent written by hand; the loss divides by zero at step 12."""
import torch

torch.manual_seed(0)
w = torch.zeros(4, requires_grad=True)
x = torch.randn(64, 4)
y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
for step in range(30):
    mask = torch.ones(64) if step != 12 else torch.zeros(64)
    loss = ((x @ w - y).square() * mask).sum() / mask.sum()
    loss.backward()
    with torch.no_grad():
        w -= 0.1 * w.grad
    w.grad = None
print("final", loss.item())
