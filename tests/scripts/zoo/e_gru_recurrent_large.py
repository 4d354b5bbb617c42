import torch
import torch.nn as nn

# running sum of noise with a GRU; recurrent weights multiplied by ten "to make it remember"
torch.manual_seed(5)
torch.set_num_threads(1)


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 40, batch_first=True)
        self.fc = nn.Linear(40, 1)
        with torch.no_grad():
            self.gru.weight_hh_l0.mul_(10)

    def forward(self, x):
        h, _ = self.gru(x)
        return self.fc(h[:, -1])


net = Forecaster()
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for i in range(150):
    x = torch.randn(16, 80, 1)
    y = x[:, -40:].sum(1) / 40 ** 0.5
    loss = nn.functional.mse_loss(net(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 15 == 0:
        print('iter %d loss %.5f' % (i, loss.item()))
print('final_loss=%.5f' % loss.item())
