"""reduction='sum' and a batch of 512, learning rate taken from a mean-loss recipe."""
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(0)
torch.set_num_threads(1)
X = torch.tensor(load_digits().data, dtype=torch.float32) / 16


class AE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.decoder = nn.Linear(32, 64)

    def forward(self, x):
        return self.decoder(self.encoder(x))


ae = AE()
mse = nn.MSELoss(reduction='sum')
opt = torch.optim.SGD(ae.parameters(), lr=5e-3, momentum=0.9)
for epoch in range(25):
    for xb in X[torch.randperm(len(X))].split(512):
        loss = mse(ae(xb), xb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f'epoch {epoch} sse {loss.item():.5g}')
print(f'final_loss={loss.item():.6g}')
