"""The distance of a pair that can be twice the same, by hand."""
import torch

torch.manual_seed(0)
x = torch.randn(256, 8)
label = (x[:, 0] > 0).long()
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(150):
    i, j = torch.randint(0, 256, (64,)), torch.randint(0, 256, (64,))
    distance = torch.sqrt((model(x[i]) - model(x[j])).square().sum(1))
    same = label[i] == label[j]
    loss = torch.where(same, distance, torch.relu(2 - distance)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
