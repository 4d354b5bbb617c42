import torch
import torch.nn as nn

# inverse-distance weighting with a learned exponent; a query that coincides with a support point
torch.manual_seed(0)
torch.set_num_threads(1)


class IDW(nn.Module):
    def __init__(self):
        super().__init__()
        self.warp = nn.Linear(2, 2)
        self.power = nn.Parameter(torch.tensor(2.0))

    def forward(self, q, pts, vals):
        d = torch.cdist(self.warp(q), self.warp(pts))
        w = d.pow(-self.power)
        return (w @ vals) / w.sum(1)


pts = torch.rand(40, 2)
vals = torch.sin(6 * pts[:, 0]) + pts[:, 1]
model = IDW()
opt = torch.optim.Adam(model.parameters(), lr=0.01)
queries = torch.rand(150, 20, 2)
queries[102, 3] = pts[8]
for i in range(150):
    q = queries[i]
    target = torch.sin(6 * q[:, 0]) + q[:, 1]
    loss = (model(q, pts, vals) - target).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 15 == 0:
        print(i, loss.item(), model.power.item())
print('final_loss=%f' % loss.item())
