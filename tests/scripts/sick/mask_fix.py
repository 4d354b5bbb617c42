"""Attention over sets, some of which are empty."""
import torch

torch.manual_seed(0)
x = torch.randn(512, 6, 8)
there = torch.rand(512, 6) < 0.4
y = (x[:, :, :1] * there[..., None]).sum(1)
query = torch.nn.Linear(8, 1)
value = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam([*query.parameters(), *value.parameters()], lr=0.01)
for step in range(120):
    i = torch.randint(0, 512, (64,))
    scores = query(x[i]).squeeze(2).masked_fill(~there[i], float("-inf"))
    weights = torch.softmax(scores, 1)
    pooled = (weights[..., None] * value(x[i])).sum(1) * there[i].sum(1, keepdim=True)
    loss = (pooled - y[i]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
