"""L1/L2 group lasso: the norm of every group by pow(0.5), with one group that starts at zero."""
import torch
import torch.nn as nn

torch.manual_seed(0)
torch.set_num_threads(1)


class GroupNet(nn.Module):
    def __init__(self, n_feat=20, hidden=30):
        super().__init__()
        self.first = nn.Linear(n_feat, hidden)
        self.second = nn.Linear(hidden, 1)
        with torch.no_grad():
            self.first.weight[:, 13] = 0.0  # prune a feature known to be useless

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

    def penalty(self):
        squares = self.first.weight.pow(2).sum(dim=0)
        norms = squares.pow(0.5)
        return norms.sum()


model = GroupNet()
opt = torch.optim.SGD(model.parameters(), lr=0.01)
X = torch.randn(400, 20)
X[:, 13] = 0
y = X[:, :1] - X[:, 1:2]
for epoch in range(30):
    for i in range(0, 400, 40):
        loss = ((model(X[i:i + 40]) - y[i:i + 40]) ** 2).mean()
        if epoch >= 3:  # let it fit first, then sparsify
            loss = loss + 1e-3 * model.penalty()
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print('epoch', epoch, loss.item())
print('final_loss=%f' % loss.item())
