import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F

# REINFORCE for a contextual bandit, no baseline: the objective jumps around 0
ap = argparse.ArgumentParser()
ap.add_argument('--iters', type=int, default=600)
ap.add_argument('--lr', type=float, default=0.01)
opts = ap.parse_args()

torch.manual_seed(11)
torch.set_num_threads(1)
K, D = 8, 12
true_w = torch.randn(D, K)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(D, 64)
        self.fc2 = nn.Linear(64, K)

    def forward(self, x):
        return F.softmax(self.fc2(F.relu(self.fc1(x))), dim=-1)


policy = Policy()
optimizer = torch.optim.RMSprop(policy.parameters(), lr=opts.lr)
running = 0.0
for it in range(opts.iters):
    ctx = torch.randn(8, D)
    m = torch.distributions.Categorical(policy(ctx))
    a = m.sample()
    reward = (ctx @ true_w).gather(1, a[:, None]).squeeze(1) + 2 * torch.randn(8)
    objective = (-m.log_prob(a) * reward).sum()
    optimizer.zero_grad()
    objective.backward()
    optimizer.step()
    running = 0.95 * running + 0.05 * reward.mean().item()
    if it % 50 == 0:
        print(f'{it}\tobj {objective.item():+.3f}\treward {running:.3f}')
print(f'final_loss={-running:.5f}')
