import torch
import torch.nn as nn
from torch.nn import functional as F

torch.manual_seed(17)
torch.set_num_threads(1)
# word2vec-like toy with bilinear scoring; optimizer.zero_grad() forgotten
Q = torch.randn(12, 12) / 3.5


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(12, 24)
        self.right = nn.Linear(12, 24)

    def forward(self, a, b):
        return (self.left(a) * self.right(b)).sum(1)


m = Bilinear()
optimizer = torch.optim.SGD(m.parameters(), lr=0.01)
for batch in range(150):
    a, b = torch.randn(64, 12), torch.randn(64, 12)
    target = ((a @ Q) * b).sum(1)
    loss = F.mse_loss(m(a, b), target)
    loss.backward()
    optimizer.step()
    if batch % 10 == 0:
        print(batch, loss.item())
print('final_loss=%s' % loss.item())
