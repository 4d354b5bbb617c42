"""At step 8 the second layer turns so that none of its units fires again; only the last bias learns on."""
import torch

torch.manual_seed(0)
x = torch.randn(256, 8)
y = (x @ torch.randn(8, 1)).relu()
model = torch.nn.Sequential(
    torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(120):
    if step == 8:
        with torch.no_grad():
            for parameter in model[2].parameters():  # what comes in is never negative
                parameter.copy_(-parameter.abs())
    i = torch.randperm(256)[:128]
    loss = (model(x[i]) - y[i]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"final {loss.item()!r}")
