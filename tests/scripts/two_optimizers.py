"""Two nets with an optimizer each; the learning rate of the second is too high."""

import torch
from torch import nn

torch.manual_seed(0)
actor, critic = nn.Linear(8, 2), nn.Linear(8, 1)
slow = torch.optim.Adam(actor.parameters(), lr=1e-3)
fast = torch.optim.SGD(critic.parameters(), lr=1.2)
for step in range(60):
    x = torch.randn(32, 8)
    loss = critic(x).sub(x.sum(1, keepdim=True)).square().mean()
    fast.zero_grad()
    loss.backward()
    fast.step()
    policy = nn.functional.cross_entropy(actor(x), (x[:, 0] > 0).long())
    slow.zero_grad()
    policy.backward()
    slow.step()
print(loss.item(), policy.item())
