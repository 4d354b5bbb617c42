"""A gradient overflows at every tenth step, and the script writes the largest number over the inf; nothing is nan."""
import torch

torch.manual_seed(0)
x = torch.randn(256, 8)
y = x @ torch.randn(8, 1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(40):
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    if step % 10 == 0:
        model.bias.grad.fill_(float("inf"))
    for parameter in model.parameters():
        parameter.grad = parameter.grad.half().nan_to_num().float()
    optimizer.step()
print(f"final {loss.item()!r}")
