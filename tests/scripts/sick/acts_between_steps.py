"""An agent that walks with its value net and then learns from where it has been; its learning rate is too high."""
import torch

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=2.0)
for update in range(60):
    states = [torch.randn(16, 4)]
    for _ in range(20):
        with torch.no_grad():
            states.append(states[-1] * 0.9 + 0.1 * torch.tanh(net(states[-1])))
    loss = sum((net(state) - state.sum(1, keepdim=True)).square().mean() for state in states) / len(states)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("final", loss.item())
