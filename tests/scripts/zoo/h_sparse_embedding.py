import torch
import torch.nn as nn
import torch.nn.functional as F
from pydoc_data.topics import topics

# skip-gram with negative sampling, SparseAdam for the two tables
torch.manual_seed(7)
torch.set_num_threads(1)
words = ' '.join(topics.values()).lower().split()[:12000]
vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
ids = torch.tensor([vocab[w] for w in words])
V, D, W, NEG = len(vocab), 32, 2, 5


class SkipGram(nn.Module):
    def __init__(self):
        super().__init__()
        self.u = nn.Embedding(V, D, sparse=True)
        self.v = nn.Embedding(V, D, sparse=True)
        self.u.weight.data.uniform_(-0.5 / D, 0.5 / D)
        self.v.weight.data.zero_()

    def forward(self, c, o, n):
        cu = self.u(c)
        pos = F.logsigmoid((cu * self.v(o)).sum(1))
        neg = F.logsigmoid(-(self.v(n) @ cu.unsqueeze(2)).squeeze(2)).sum(1)
        return -(pos + neg).mean()


m = SkipGram()
opt = torch.optim.SparseAdam(list(m.parameters()), lr=0.01)
for it in range(400):
    pos = torch.randint(W, len(ids) - W, (128,))
    off = torch.randint(1, W + 1, (128,)) * (torch.randint(0, 2, (128,)) * 2 - 1)
    loss = m(ids[pos], ids[pos + off], torch.randint(0, V, (128, NEG)))
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 100 == 0:
        print(it, loss.item())
print('final_loss=%.5f' % loss.item())
