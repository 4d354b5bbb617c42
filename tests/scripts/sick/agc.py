"""A plain deep net without normalisation, its weights twice too large, its learning rate too long."""
import torch
from torch.nn import functional as F

torch.manual_seed(0)
x = torch.randn(256, 16)
y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
layers = [torch.nn.Linear(16, 64), torch.nn.ReLU()]
for _ in range(4):
    layers += [torch.nn.Linear(64, 64), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Linear(64, 3))
for layer in model[:-1:2]:
    torch.nn.init.normal_(layer.weight, std=0.35)
torch.nn.init.zeros_(model[-1].weight)
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
for step in range(150):
    i = torch.randint(0, 256, (64,))
    loss = F.cross_entropy(model(x[i]), y[i])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
