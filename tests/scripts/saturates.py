"""Five tanh layers whose weights start thirty times too large: every unit lies where tanh is flat."""
import torch

torch.manual_seed(0)
layers = [torch.nn.Linear(8 if i == 0 else 32, 32) for i in range(5)]
model = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.Tanh())), torch.nn.Linear(32, 2))
with torch.no_grad():
    for layer in layers:
        layer.weight.mul_(30)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
direction = torch.randn(8)
for step in range(150):
    x = torch.randn(64, 8)
    loss = torch.nn.functional.cross_entropy(model(x), (x @ direction > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"final {loss.item()!r}")
