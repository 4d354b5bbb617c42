import torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)

# VAE-like ELBO summed over pixels *and* batch, pixel values 0..255: 1e7 and falling
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.e1 = nn.Linear(64, 48)
        self.mu, self.lv = nn.Linear(48, 6), nn.Linear(48, 6)
        self.d = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, x):
        h = torch.relu(self.e1(x / 255))
        mu, lv = self.mu(h), self.lv(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * lv)
        return self.d(z) * 255, mu, lv


from sklearn.datasets import load_digits
data = torch.tensor(load_digits().data).float() / 16 * 255
model = VAE()
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(10):
    for xb in data[torch.randperm(len(data))].split(64):
        rec, mu, lv = model(xb)
        loss = (rec - xb).pow(2).sum() - 0.5 * (1 + lv - mu.pow(2) - lv.exp()).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print('final_loss=%.3f' % loss.item())
