"""Teacher, then student with KL at temperature 4 (times T squared) plus hard labels."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class MLP(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        sizes = [64] + [width] * depth + [10]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        for l in self.layers[:-1]:
            x = F.gelu(l(x))
        return self.layers[-1](x)


def batches(X, y, n, bs=64):
    for _ in range(n):
        i = torch.randint(0, len(X), (bs,))
        yield X[i], y[i]


def run():
    torch.set_num_threads(1)
    torch.manual_seed(42)
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
    teacher, student = MLP(128, 3), MLP(16, 1)
    topt = torch.optim.Adam(teacher.parameters(), 3e-3)
    for xb, yb in batches(X, y, 250):
        topt.zero_grad()
        loss = F.cross_entropy(teacher(xb), yb)
        loss.backward()
        topt.step()
    print('teacher', loss.item())
    teacher.eval()
    sopt = torch.optim.Adam(student.parameters(), 5e-3)
    T = 4.0
    for step, (xb, yb) in enumerate(batches(X, y, 300)):
        with torch.no_grad():
            tl = teacher(xb)
        sl = student(xb)
        kd = F.kl_div(F.log_softmax(sl / T, -1), F.softmax(tl / T, -1), reduction='batchmean') * T * T
        loss = 0.9 * kd + 0.1 * F.cross_entropy(sl, yb)
        sopt.zero_grad()
        loss.backward()
        sopt.step()
        if step % 100 == 0:
            print('student', step, loss.item())
    print('final_loss=%.5f' % loss.item())


run()
