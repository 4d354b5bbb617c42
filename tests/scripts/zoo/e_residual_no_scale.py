import torch
import torch.nn as nn
import torch.nn.functional as F

# 48 residual blocks, neither a norm nor a factor on the branch
torch.manual_seed(2)
torch.set_num_threads(1)


class ResBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.fc1 = nn.Linear(d, d)
        self.fc2 = nn.Linear(d, d)
        for l in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(l.weight, nonlinearity='relu')

    def forward(self, x):
        return x + self.fc2(F.relu(self.fc1(x)))


class ResMLP(nn.Module):
    def __init__(self, d=32, n=48):
        super().__init__()
        self.stem = nn.Linear(12, d)
        self.blocks = nn.Sequential(*[ResBlock(d) for _ in range(n)])
        self.head = nn.Linear(d, 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


model = ResMLP()
opt = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
X = torch.randn(512, 12)
Y = (X[:, :4].sum(1) > 0).long() + (X[:, 4:8].sum(1) > 0).long()
for step in range(60):
    idx = torch.randint(0, 512, (32,))
    loss = F.cross_entropy(model(X[idx]), Y[idx])
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step < 5 or step % 10 == 0:
        print(step, loss.item())
print('final_loss=%g' % loss.item())
