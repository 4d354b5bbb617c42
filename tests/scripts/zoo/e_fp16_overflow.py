import torch
import torch.nn as nn

# half precision on everything, features up to some hundreds; squares of them do not fit
torch.manual_seed(0)
torch.set_num_threads(1)


class EnergyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1 = nn.Linear(10, 32)
        self.lin2 = nn.Linear(32, 1)

    def forward(self, x):
        h = self.lin1(x)
        energy = h * h
        return self.lin2(energy / 64)


net = EnergyNet().half()
opt = torch.optim.SGD(net.parameters(), lr=1e-3)
X = torch.randn(1200, 10)
X[930] *= 400
Y = (X[:, :2] ** 2).sum(1, keepdim=True).clamp(max=10)
for i in range(120):
    x, y = X[i * 10:i * 10 + 10].half(), Y[i * 10:i * 10 + 10].half()
    loss = nn.functional.smooth_l1_loss(net(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 20 == 0:
        print(i, loss.item())
print('final_loss=%f' % loss.item())
