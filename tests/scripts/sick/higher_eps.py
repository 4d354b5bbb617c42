"""Adam without an epsilon to speak of: a feature that is zero for long, then tiny, moves its weight by whole steps."""
import torch

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x @ torch.randn(8, 1)
model = torch.nn.Linear(8, 1)
rare = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.Adam([*model.parameters(), rare], lr=0.02, eps=1e-30, betas=(0.9, 0.9))
for step in range(300):
    i = torch.randint(0, 512, (64,))
    noise = 1e-9 * (1 + torch.rand(1)) if step < 250 else torch.tensor([30.0])
    loss = (model(x[i]) + rare * noise - y[i]).square().mean() + 1e-9 * rare.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
