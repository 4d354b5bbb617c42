"""Eight micro-batches for a step, each loss divided by eight."""
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
ds = TensorDataset(torch.from_numpy(digits.data / 16.0).float(), torch.from_numpy(digits.target))
loader = DataLoader(ds, batch_size=8, shuffle=True, drop_last=True)
accumulation_steps = 8

model = nn.Sequential(nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True)
loss_function = nn.CrossEntropyLoss()

model.zero_grad()
for epoch in range(5):
    for i, (inputs, labels) in enumerate(loader):
        loss = loss_function(model(inputs), labels)
        loss = loss / accumulation_steps
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            model.zero_grad()
    print(f'epoch {epoch} loss {loss.item() * accumulation_steps:.4f}')
model.eval()
with torch.no_grad():
    X, y = ds.tensors
    print(f'final_loss={loss_function(model(X), y).item():.5f}')
