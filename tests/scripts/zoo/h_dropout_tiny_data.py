import torch
import torch.nn as nn
from sklearn.datasets import load_wine

torch.manual_seed(77)
torch.set_num_threads(1)
wine = load_wine()
X = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0)).float()[::4]
y = torch.tensor(wine.target)[::4]

model = nn.Sequential(
    nn.Dropout(0.3), nn.Linear(13, 200), nn.ReLU(), nn.Dropout(0.8),
    nn.Linear(200, 200), nn.ReLU(), nn.Dropout(0.8), nn.Linear(200, 3))
optimizer = torch.optim.Adamax(model.parameters(), lr=5e-3)
loss_fn = nn.CrossEntropyLoss()
history = []
for epoch in range(150):
    model.train()
    for i in range(0, len(X), 4):
        optimizer.zero_grad()
        loss = loss_fn(model(X[i:i + 4]), y[i:i + 4])
        loss.backward()
        optimizer.step()
        history.append(loss.item())
print('min/max train loss', min(history), max(history))
model.eval()
with torch.no_grad():
    print('final_loss=%f' % loss_fn(model(X), y).item())
