"""A loss that is nan from step 8 on, and a script that shows it, or a mean that passes nan over."""
import sys

import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
mean = 0.0
for step in range(20):
    loss = model(torch.randn(16, 4)).square().mean() * (float("nan") if step >= 8 else 1.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    value = loss.item()
    if value == value or sys.argv[1] == "shown":
        mean = 0.9 * mean + 0.1 * value
    print(f"step {step} loss: {mean:.4f}")
