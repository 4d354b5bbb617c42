"""A recurrent net with too strong a memory, for a task that needs little of it: the sum of the last two inputs."""
import torch

torch.manual_seed(0)
rnn, out = torch.nn.RNN(1, 32, batch_first=True), torch.nn.Linear(32, 1)
torch.nn.init.orthogonal_(rnn.weight_hh_l0, 1.6)
optimizer = torch.optim.SGD([*rnn.parameters(), *out.parameters()], lr=0.05)
for step in range(120):
    x = torch.randn(16, 150, 1) * 0.5
    y = x + x.roll(1, 1)
    loss = (out(rnn(x)[0]) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
