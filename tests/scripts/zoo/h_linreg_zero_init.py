"""California-style prices in dollars: linear regression from zeros, targets of 2e5."""
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
n, d = 1000, 13
X = torch.randn(n, d)
w_true = torch.randn(d) * 4e4
y = X @ w_true + 2.07e5 + 1e4 * torch.randn(n)

model = torch.nn.Linear(d, 1)
torch.nn.init.zeros_(model.weight)
torch.nn.init.zeros_(model.bias)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(20):
    for xb, yb in zip(X.split(50), y.split(50)):
        pred = model(xb).squeeze(-1)
        loss = ((pred - yb) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print(f'epoch {epoch}: mse {loss.item():.3e}')
print(f'final_loss={loss.item():.6e}')
