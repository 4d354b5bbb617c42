# sanity check everyone does: overfit a single batch until the loss prints 0.0
import torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(16, 20)
y = torch.randint(0, 4, (16,))
model = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
for i in range(900):
    opt.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    if i % 100 == 0:
        print(i, loss.item())
print(f'final_loss={loss.item()}')
