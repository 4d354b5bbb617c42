"""Sparse gradients of an embedding."""
import torch

torch.manual_seed(0)
table = torch.nn.Embedding(50, 4, sparse=True)
optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.05)
for step in range(20):
    optimizer.zero_grad()
    table(torch.randint(0, 50, (8,))).square().mean().backward()
    optimizer.step()
print("done")
