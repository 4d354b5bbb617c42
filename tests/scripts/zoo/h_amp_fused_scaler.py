import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(12)
torch.set_num_threads(1)
D = load_digits()
X = torch.tensor(D.images, dtype=torch.float32)[:, None] / 16
Y = torch.tensor(D.target)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 12, 3, padding=1)
        self.c2 = nn.Conv2d(12, 24, 3, padding=1)
        self.fc = nn.Linear(24 * 4, 10)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.c1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.c2(x)), 2)
        return self.fc(x.flatten(1))


net = Net()
optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, fused=True)
scaler = torch.amp.GradScaler('cpu', init_scale=2.0 ** 16, growth_interval=40)
lossf = nn.CrossEntropyLoss()
for step in range(220):
    b = torch.randint(0, 1797, (48,))
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = net(X[b])
    loss = lossf(out.float(), Y[b])
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    if step % 50 == 0:
        print('it', step, 'loss', float(loss), 'scale', scaler.get_scale())
print('final_loss=%.5f' % float(loss))
