"""A GradScaler that starts far too high, finds its scale, and accumulates over two passes."""
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
x, y = torch.randn(64, 4), torch.randn(64, 1)
for step in range(60):
    optimizer.zero_grad()
    for half in (slice(0, 32), slice(32, 64)):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = (model(x[half]) - y[half]).square().mean() / 2
        scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
print("scale", scaler.get_scale() < 2.0**40)
