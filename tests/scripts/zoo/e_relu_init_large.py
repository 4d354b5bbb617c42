"""normal_(std=0.5) everywhere, eight wide ReLU layers."""
import torch
import torch.nn as nn
from sklearn.datasets import load_digits


def init_weights(m):
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.5)
        nn.init.zeros_(m.bias)


def build(width=128, depth=8):
    layers = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


torch.manual_seed(0)
torch.set_num_threads(1)
data = load_digits()
X, y = torch.tensor(data.data).float() / 16, torch.tensor(data.target)
model = build().apply(init_weights)
opt = torch.optim.SGD(model.parameters(), lr=1e-2)
for step in range(80):
    b = torch.randint(0, len(X), (64,))
    loss = nn.functional.cross_entropy(model(X[b]), y[b])
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 0:
        print(step, loss.item())
print(f'final_loss={loss.item()}')
