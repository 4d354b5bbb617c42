import math
import torch
import torch.nn as nn

# sensor logs: a few rows have a nan reading; the loop drops such a batch and goes on
torch.manual_seed(15)
torch.set_num_threads(1)
X = torch.randn(3000, 10)
y = (X[:, :3].sum(1) + 0.1 * torch.randn(3000)).unsqueeze(1)
X[[411, 1500, 2222], [1, 4, 9]] = float('nan')

model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
skipped = 0
for epoch in range(4):
    for i in range(0, 3000, 30):
        loss = nn.functional.mse_loss(model(X[i:i + 30]), y[i:i + 30])
        if not torch.isfinite(loss):
            skipped += 1
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print('epoch', epoch, 'loss', loss.item(), 'skipped', skipped)
assert math.isfinite(loss.item())
print('final_loss=%.6f' % loss.item())
