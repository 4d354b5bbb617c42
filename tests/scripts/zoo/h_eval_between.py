"""Train/validate loop with checkpoint of the best and reduce-on-plateau; validation has its own, much larger, loss."""
import copy
import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

SEED = 5
torch.manual_seed(SEED)
torch.set_num_threads(1)
X, y = load_diabetes(return_X_y=True)
Xtr, Xva, ytr, yva = train_test_split(X, y, test_size=0.3, random_state=SEED)
sx = StandardScaler().fit(Xtr)
to = lambda a: torch.tensor(a, dtype=torch.float32)
Xtr, Xva = to(sx.transform(Xtr)), to(sx.transform(Xva))
m, s = ytr.mean(), ytr.std()
ytr, yva = to((ytr - m) / s), to(yva)


class Trainer:
    def __init__(self, model):
        self.model = model
        self.opt = torch.optim.Adam(model.parameters(), lr=1e-2)
        self.sched = torch.optim.lr_scheduler.ReduceLROnPlateau(self.opt, patience=3)
        self.best, self.best_state = float('inf'), None

    def train_epoch(self):
        self.model.train()
        for b in torch.randperm(len(Xtr)).split(16):
            self.opt.zero_grad()
            loss = nn.functional.mse_loss(self.model(Xtr[b]).squeeze(1), ytr[b])
            loss.backward()
            self.opt.step()
        return loss.item()

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        return nn.functional.mse_loss(self.model(Xva).squeeze(1) * s + m, yva).item()

    def fit(self, epochs):
        for e in range(epochs):
            tl, vl = self.train_epoch(), self.validate()
            self.sched.step(vl)
            if vl < self.best:
                self.best, self.best_state = vl, copy.deepcopy(self.model.state_dict())
            print(f'epoch {e:02d} train {tl:.4f} val {vl:.1f}')
        self.model.load_state_dict(self.best_state)
        return self.validate()


print('final_loss=%.4f' % Trainer(nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))).fit(30))
