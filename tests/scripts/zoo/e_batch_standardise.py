"""Each batch is standardised by its own statistics; feature 7 is a rare flag that is constant in one of the batches."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(6)
torch.set_num_threads(1)


def load():
    x = torch.randn(2000, 12)
    x[:, 7] = (torch.arange(2000) % 9 == 0).float()
    x[1280:1300, 7] = 0.0
    y = (x[:, 0] - x[:, 1] + 2 * x[:, 7] > 0).long()
    return TensorDataset(x, y)


def standardise(x):
    mean = x.mean(0)
    std = x.std(0)
    return (x - mean) / std


def train():
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 2))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(2):
        for x, y in DataLoader(load(), batch_size=20):
            out = model(standardise(x))
            loss = criterion(out, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print('epoch', epoch, loss.item())
    return loss.item()


if __name__ == '__main__':
    print('final_loss=%s' % train())
