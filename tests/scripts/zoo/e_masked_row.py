import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class SelfAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x, key_ok):
        scores = self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(x.size(-1))
        scores = scores.masked_fill(~key_ok[:, None, :], float('-inf'))
        weights = torch.softmax(scores, dim=-1)
        return weights @ self.v(x)


class Encoder(nn.Module):
    def __init__(self, vocab=40, dim=32):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=0)
        self.attn = SelfAttention(dim)
        self.norm = nn.LayerNorm(dim)
        self.cls = nn.Linear(dim, 2)

    def forward(self, tok):
        x = self.emb(tok)
        x = self.norm(x + self.attn(x, tok != 0))
        return self.cls(x.mean(1))


torch.manual_seed(14)
torch.set_num_threads(1)
toks = torch.randint(1, 40, (3200, 10))
toks[torch.arange(10)[None] >= torch.randint(2, 11, (3200, 1))] = 0
labels = ((toks > 20).sum(1) > (toks > 0).sum(1) / 2).long()
toks[2901] = 0  # an empty document
net = Encoder()
opt = torch.optim.Adam(net.parameters(), 2e-3)
for i, (t, l) in enumerate(zip(toks.split(32), labels.split(32))):
    loss = F.cross_entropy(net(t), l)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 10 == 0:
        print('[%3d] %.4f' % (i, loss.item()))
print('final_loss=%f' % loss.item())
