"""Stops itself before its first step, because the first loss is nan."""
import torch

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = torch.log(model(torch.zeros(4, 2)).sum() * 0 - 1)
loss.backward()
if torch.isnan(loss):
    raise SystemExit("nan in the first step")
optimizer.step()
