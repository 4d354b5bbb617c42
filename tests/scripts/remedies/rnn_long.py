"""A plain recurrent layer over a hundred and fifty steps. The optimizer is made before the model first runs."""
import torch
from torch import nn

torch.manual_seed(0)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 24, num_layers=2, nonlinearity="relu", batch_first=True)
        for name, weight in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.normal_(weight, std=0.25)
        self.out = nn.Linear(24, 1)

    def forward(self, x, h):
        y, h = self.rnn(x, h)
        return self.out(y), h


model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
h = torch.zeros(2, 16, 24)
for step in range(40):
    x = torch.randn(16, 150, 2)
    wanted = (x[:, :, 0] > 0).float() - (x[:, :, 1] > 0).float()
    y, h = model(x, h.detach())
    loss = (y.squeeze(-1) - wanted).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
