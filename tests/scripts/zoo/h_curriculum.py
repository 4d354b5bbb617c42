import torch
import torch.nn as nn

# adding numbers in a sequence: the sequences get longer and the numbers bigger every stage, so the loss climbs in steps
torch.manual_seed(2)
torch.set_num_threads(1)


class Adder(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.gru = nn.GRU(2, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        out, _ = self.gru(x)
        return self.head(out[:, -1]).squeeze(1)


model = Adder()
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
loss_fn = nn.MSELoss()
for stage, (length, scale) in enumerate([(3, 1.0), (6, 1.5), (12, 2.0), (20, 3.0)]):
    for i in range(120):
        vals = torch.rand(32, length) * scale
        marks = torch.zeros(32, length)
        for r in range(32):
            marks[r, torch.randperm(length)[:2]] = 1
        target = (vals * marks).sum(1)
        loss = loss_fn(model(torch.stack([vals, marks], -1)), target)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print('stage', stage, 'length', length, 'loss', loss.item())
print('final_loss=%.5f' % loss.item())
