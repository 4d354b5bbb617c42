"""Small GPT on the Python documentation: warm-up, additive -inf causal mask."""
import argparse
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from pydoc_data.topics import topics


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x, mask):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.h, -1).transpose(1, 2) for t in self.qkv(self.ln1(x)).chunk(3, -1))
        att = q @ k.transpose(-2, -1) / math.sqrt(C // self.h) + mask
        x = x + self.proj((att.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, V, T=32, d=48, h=4, n=2):
        super().__init__()
        self.tok, self.pos = nn.Embedding(V, d), nn.Embedding(T, d)
        self.blocks = nn.ModuleList([Block(d, h) for _ in range(n)])
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, V, bias=False)
        self.register_buffer('mask', torch.triu(torch.full((T, T), float('-inf')), 1))

    def forward(self, i):
        x = self.tok(i) + self.pos.weight
        for b in self.blocks:
            x = b(x, self.mask)
        return self.head(self.ln(x))


if __name__ == '__main__':
    args = argparse.ArgumentParser()
    args.add_argument('--steps', type=int, default=180)
    args.add_argument('--warmup', type=int, default=30)
    args = args.parse_args()
    torch.manual_seed(1337)
    torch.set_num_threads(1)
    text = topics['assignment'] + topics['class'] + topics['for']
    chars = sorted(set(text))
    data = torch.tensor([chars.index(c) for c in text])
    model = GPT(len(chars))
    opt = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, (s + 1) / args.warmup))
    for it in range(args.steps):
        ix = torch.randint(len(data) - 33, (12,))
        x = torch.stack([data[i:i + 32] for i in ix])
        y = torch.stack([data[i + 1:i + 33] for i in ix])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        sched.step()
        if it % 30 == 0:
            print(f'step {it}: {loss.item():.4f}')
    print(f'final_loss={loss.item():.4f}')
