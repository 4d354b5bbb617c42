"""Two ranks, each on its part of the data. `ddp.py EXITCODE`"""
import os
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
x = torch.randn(64, 8)
y = x @ torch.randn(8, 1)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(10):
    loss = (model(x.chunk(world)[rank]) - y.chunk(world)[rank]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"rank {rank} of {os.environ['WORLD_SIZE']} done", flush=True)
dist.destroy_process_group()
if len(sys.argv) > 1:
    sys.exit(int(sys.argv[1]))
