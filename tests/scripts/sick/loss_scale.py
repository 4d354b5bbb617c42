"""Half-precision weights, a float copy, and a fixed loss scale that their gradients can't hold."""
import torch

torch.manual_seed(0)
x = torch.randn(512, 16)
y = (x[:, :1] * 3 + x[:, 1:2]).half()
x = x.half()
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)).half()
copy = [p.detach().float().requires_grad_() for p in model.parameters()]
optimizer = torch.optim.SGD(copy, lr=0.05)
SCALE = 65536.0
for step in range(100):
    i = torch.randint(0, 512, (64,))
    loss = (model(x[i]) - y[i]).float().square().mean()
    model.zero_grad()
    (loss * SCALE).backward()
    for p, c in zip(model.parameters(), copy):
        c.grad = p.grad.float() / SCALE
    optimizer.step()
    with torch.no_grad():
        for p, c in zip(model.parameters(), copy):
            p.copy_(c)
