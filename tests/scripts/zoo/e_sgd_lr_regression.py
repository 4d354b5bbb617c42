"""Diabetes, standardised, two-layer net; somebody set lr to 0.7 because 'SGD is slow'."""
import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

torch.manual_seed(0)
torch.set_num_threads(1)
X, y = load_diabetes(return_X_y=True)
X = torch.tensor(scale(X), dtype=torch.float32)
y = torch.tensor(scale(y), dtype=torch.float32).unsqueeze(1)


class Net(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.hidden = nn.Linear(10, width)
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.7)
loss_fn = nn.MSELoss()
for step in range(120):
    idx = torch.randint(0, len(X), (32,))
    loss = loss_fn(net(X[idx]), y[idx])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f'{step:4d} {loss.item():.4g}')
print(f'final_loss={loss.item()}')
