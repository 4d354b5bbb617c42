"""PPO on a toy chain: the longer it survives the larger its returns, so the value loss grows while the policy improves."""
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn.utils import clip_grad_norm_

torch.set_num_threads(1)
torch.manual_seed(3)
rng = np.random.default_rng(3)


class Balance:
    """a pole, more or less: drift away from 0 and you fall"""

    def reset(self):
        self.s = rng.normal(0, 0.05, 4)
        self.t = 0
        return self.s.copy()

    def step(self, a):
        x, v, th, w = self.s
        f = 1.0 if a else -1.0
        w += 0.15 * th + 0.06 * f
        v += 0.03 * f
        self.s = np.array([x + 0.1 * v, v, th + 0.1 * w, w])
        self.t += 1
        return self.s.copy(), 1.0, bool(abs(self.s[2]) > 0.5 or abs(self.s[0]) > 2.4 or self.t >= 200)


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.pi, self.v = nn.Linear(32, 2), nn.Linear(32, 1)

    def forward(self, s):
        h = self.body(s)
        return Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)


env, net = Balance(), ActorCritic()
opt = torch.optim.Adam(net.parameters(), lr=3e-3, eps=1e-5)
s, lengths, ep = env.reset(), [], 0
for update in range(25):
    S, A, R, D = [], [], [], []
    for _ in range(256):
        with torch.no_grad():
            dist, _ = net(torch.tensor(s, dtype=torch.float32))
            a = dist.sample().item()
        S.append(s)
        s, r, done = env.step(a)
        ep += 1
        A.append(a); R.append(r); D.append(done)
        if done:
            lengths.append(ep); ep = 0
            s = env.reset()
    S, A = torch.tensor(np.array(S), dtype=torch.float32), torch.tensor(A)
    ret, acc = [], 0.0
    for r, d in zip(reversed(R), reversed(D)):
        acc = r + 0.99 * acc * (not d)
        ret.insert(0, acc)
    ret = torch.tensor(ret)
    with torch.no_grad():
        d0, v0 = net(S)
        old = d0.log_prob(A)
    adv = ret - v0
    adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    for _ in range(4):
        for idx in torch.randperm(256).split(64):
            dist, v = net(S[idx])
            ratio = (dist.log_prob(A[idx]) - old[idx]).exp()
            pg = -torch.min(ratio * adv[idx], ratio.clamp(0.8, 1.2) * adv[idx]).mean()
            loss = pg + 0.5 * (ret[idx] - v).pow(2).mean() - 0.01 * dist.entropy().mean()
            opt.zero_grad()
            loss.backward()
            clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
    print('update', update, 'loss %.3f' % loss.item(), 'len', np.mean(lengths[-10:]))
print('final_loss=%.5f' % loss.item())
