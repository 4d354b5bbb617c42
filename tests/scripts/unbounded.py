"""Masks of 0 and 255 where a probability is expected: the loss has no lower bound, and goes there."""
import torch
import torch.nn.functional as F

torch.manual_seed(0)
layer = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
for step in range(150):
    x = torch.randn(32, 4)
    mask = 255.0 * (x[:, :1] > 0)
    loss = F.binary_cross_entropy_with_logits(layer(x), mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("final", loss.item())
