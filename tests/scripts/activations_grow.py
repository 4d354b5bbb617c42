"""Weight decay with the wrong sign behind a norm: the stream grows by 6 % a step, and the loss shows none of it."""
import torch


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(32), torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


torch.manual_seed(0)
blocks = torch.nn.Sequential(Block(), Block())
model = torch.nn.Sequential(torch.nn.Linear(8, 32), blocks, torch.nn.LayerNorm(32), torch.nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
direction = torch.randn(8)
for step in range(150):
    x = torch.randn(64, 8)
    wrong = torch.rand(64) < 0.3
    loss = torch.nn.functional.cross_entropy(model(x), ((x @ direction > 0) ^ wrong).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in blocks.parameters():
            parameter.mul_(1.06)  # meant to be 1 - 0.06
print(f"final {loss.item()!r}")
