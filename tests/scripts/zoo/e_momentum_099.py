import argparse
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument('--lr', default=0.12, type=float)
parser.add_argument('--momentum', default=0.99, type=float)
parser.add_argument('--steps', default=250, type=int)
args = parser.parse_args()

torch.manual_seed(123)
torch.set_num_threads(1)
A = torch.randn(6, 1)


def get_batch(n=40):
    x = torch.randn(n, 6)
    return x, torch.tanh(x @ A) * 2 + 0.1 * torch.randn(n, 1)


model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
opt = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)
for i in range(args.steps):
    x, y = get_batch()
    loss = ((model(x) - y) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 25 == 0:
        print('iter', i, 'loss', loss.item())
print('final_loss=%s' % loss.item())
