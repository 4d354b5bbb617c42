"""Attention with a learning rate far too high: its logits grow into the hundreds, and nothing more is learnt."""
import sys

import torch
import torch.nn.functional as F

torch.manual_seed(0)
D, T, WORDS = 32, 24, 16


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = torch.nn.LayerNorm(D), torch.nn.Linear(D, 3 * D), torch.nn.Linear(D, D)

    def forward(self, x):
        q, k, v = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in self.qkv(self.norm(x)).chunk(3, -1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Model(torch.nn.Module):
    """Has to say the word before the last."""

    def __init__(self):
        super().__init__()
        self.word, self.place = torch.nn.Embedding(WORDS, D), torch.nn.Embedding(T, D)
        self.blocks = torch.nn.Sequential(Block(), Block())
        self.norm, self.head = torch.nn.LayerNorm(D), torch.nn.Linear(D, WORDS)

    def forward(self, words):
        return self.head(self.norm(self.blocks(self.word(words) + self.place.weight)))


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=float(sys.argv[1]))
for step in range(200):
    words = torch.randint(WORDS, (32, T))
    loss = F.cross_entropy(model(words)[:, 1:].flatten(0, 1), words[:, :-1].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"final {loss.item()!r}")
