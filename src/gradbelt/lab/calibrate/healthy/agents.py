"""Agents that learn to keep a pole up: the better they are, the larger their returns, and with them the losses."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

from gradbelt.lab.calibrate.training import Learnt, Training

LONGEST = 200  # steps of an episode


class Poles:
    """Sixteen poles, more or less: drift away from 0 and yours falls. 1 for every step that it stays up."""

    def __init__(self, seed: int, count: int = 16) -> None:
        self._rng = np.random.default_rng(seed)
        self.state = self._fresh(count)
        self.age = np.zeros(count, dtype=int)
        self.lengths: list[int] = []

    def _fresh(self, count: int) -> np.ndarray:
        return self._rng.normal(0, 0.05, (count, 4))

    def observe(self) -> Tensor:
        return torch.tensor(self.state, dtype=torch.float32)

    def push(self, actions: Tensor) -> Tensor:
        """One step of every pole; 1 where it ended."""
        force = np.where(actions.numpy() > 0, 1.0, -1.0)
        x, v, angle, spin = self.state.T
        spin, v = spin + 0.15 * angle + 0.06 * force, v + 0.03 * force
        self.state = np.stack([x + 0.1 * v, v, angle + 0.1 * spin, spin], axis=1)
        self.age += 1
        done = (np.abs(self.state[:, 2]) > 0.5) | (np.abs(self.state[:, 0]) > 2.4) | (self.age >= LONGEST)
        self.lengths += self.age[done].tolist()
        self.state[done], self.age[done] = self._fresh(int(done.sum())), 0
        return torch.tensor(done, dtype=torch.float32)


class Agent(nn.Module):
    """Observations in; a policy's logits and a value out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.policy, self.value = nn.Linear(32, 2), nn.Linear(32, 1)

    def forward(self, seen: Tensor) -> tuple[Categorical, Tensor]:
        inner = self.body(seen)
        return Categorical(logits=self.policy(inner)), self.value(inner).squeeze(-1)


def _returns(ends: list[Tensor], after: Tensor, discount: float = 0.99) -> Tensor:
    found, total = [], after
    for end in reversed(ends):
        total = 1.0 + discount * total * (1 - end)
        found.append(total)
    return torch.stack(found[::-1])


def _outcome(poles: Poles) -> Learnt:
    """Minus the mean length of the first and of the last thirty episodes."""
    return Learnt(-float(np.mean(poles.lengths[:30])), -float(np.mean(poles.lengths[-30:])), share=0.5)


def actor_critic(training: Training) -> Learnt:
    """Advantage actor-critic: its value loss grows with its returns."""
    poles, agent = Poles(training.seed), Agent()
    optimizer = torch.optim.RMSprop(agent.parameters(), lr=3e-3, eps=1e-5)
    training.fasten(agent, optimizer)

    def draw() -> tuple[Tensor, ...]:
        seen, acts, ends = [], [], []
        for _ in range(8):
            seen.append(poles.observe())
            with torch.no_grad():
                acts.append(agent(seen[-1])[0].sample())
            ends.append(poles.push(acts[-1]))
        with torch.no_grad():
            after = agent(poles.observe())[1]
        return torch.cat(seen), torch.cat(acts), _returns(ends, after).flatten()

    for seen, acts, returns in training.batches(draw):
        chances, values = agent(seen)
        better = (returns - values).detach()
        policy = -(chances.log_prob(acts) * better).mean() - 0.01 * chances.entropy().mean()
        optimizer.zero_grad()
        training.see(policy + 0.5 * functional.mse_loss(values, returns)).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    return _outcome(poles)


def ppo(training: Training) -> Learnt:
    """Proximal policy optimisation, not clipped: eight steps on each harvest, and a jump at every new one."""
    poles, agent = Poles(training.seed), Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
    training.fasten(agent, optimizer)
    harvest: list[tuple[Tensor, ...]] = []

    def gather() -> None:
        seen, acts, ends = [], [], []
        with torch.no_grad():
            for _ in range(32):
                seen.append(poles.observe())
                acts.append(agent(seen[-1])[0].sample())
                ends.append(poles.push(acts[-1]))
            returns = _returns(ends, agent(poles.observe())[1]).flatten()
            all_seen, all_acts = torch.cat(seen), torch.cat(acts)
            chances, values = agent(all_seen)
            old, better = chances.log_prob(all_acts), returns - values
            better = (better - better.mean()) / (better.std() + 1e-8)
        for rows in [*torch.randperm(512).split(128), *torch.randperm(512).split(128)]:
            harvest.append((all_seen[rows], all_acts[rows], returns[rows], old[rows], better[rows]))

    def draw() -> tuple[Tensor, ...]:
        if not harvest:
            gather()
        return harvest.pop()

    for seen, acts, returns, old, better in training.batches(draw):
        chances, values = agent(seen)
        ratio = (chances.log_prob(acts) - old).exp()
        policy = -torch.min(ratio * better, ratio.clamp(0.8, 1.2) * better).mean()
        optimizer.zero_grad()
        training.see(policy + 0.5 * functional.mse_loss(values, returns) - 0.01 * chances.entropy().mean()).backward()
        optimizer.step()
    return _outcome(poles)


def q_learning(training: Training) -> Learnt:
    """Deep Q-learning with replay and a target net: every time that is renewed, the loss jumps."""
    poles, net = Poles(training.seed), nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                                                     nn.Linear(32, 2))  # fmt: skip
    target = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    training.fasten(net, optimizer)
    kept: list[tuple[Tensor, ...]] = []

    def draw() -> tuple[Tensor, ...]:
        if training.step % 100 == 0:
            target.load_state_dict(net.state_dict())
        seen = poles.observe()
        with torch.no_grad():
            acts = net(seen).argmax(dim=1)
        explore = torch.rand(len(acts)) < max(0.05, 1 - 3 * training.step / training.steps)
        acts = torch.where(explore, torch.randint(2, acts.shape), acts)
        ends = poles.push(acts)
        kept.append((seen, acts, poles.observe(), ends))
        del kept[:-2000]
        picked = [kept[int(i)] for i in torch.randint(len(kept), (4,))]
        return tuple(torch.cat(parts) for parts in zip(*picked, strict=True))

    for seen, acts, then, ends in training.batches(draw):
        with torch.no_grad():
            wanted = 1.0 + 0.97 * target(then).max(dim=1).values * (1 - ends)
        optimizer.zero_grad()
        training.see(functional.smooth_l1_loss(net(seen).gather(1, acts[:, None])[:, 0], wanted)).backward()
        optimizer.step()
    return _outcome(poles)


SCRIPTS = (actor_critic, ppo, q_learning)
