"""SWA and EMA copies of the model, with a high constant SWA learning rate."""
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
X, y = load_breast_cancer(return_X_y=True)
X = torch.tensor(StandardScaler().fit_transform(X), dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32)
loader = DataLoader(TensorDataset(X, y), batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(30, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
swa, ema = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
swa_sched = SWALR(opt, swa_lr=0.3, anneal_epochs=3)
crit = nn.BCEWithLogitsLoss()
for epoch in range(16):
    model.train()
    for xb, yb in loader:
        opt.zero_grad()
        loss = crit(model(xb).squeeze(1), yb)
        loss.backward()
        opt.step()
        ema.update_parameters(model)
    if epoch >= 8:
        swa.update_parameters(model)
        swa_sched.step()
    print('epoch %d loss %.5f' % (epoch, loss.item()))
update_bn(loader, swa)
swa.eval()
with torch.no_grad():
    print('final_loss=%.5f' % crit(swa(X).squeeze(1), y).item())
