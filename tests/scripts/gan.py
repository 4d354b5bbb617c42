"""Two optimizers, two losses, by turns."""
import torch

torch.manual_seed(0)
G, D = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
g, d = torch.optim.Adam(G.parameters(), 1e-3), torch.optim.Adam(D.parameters(), 1e-3)
bce = torch.nn.BCEWithLogitsLoss()
for step in range(40):
    real, fake = torch.randn(16, 2) + 2, G(torch.randn(16, 2))
    d.zero_grad()
    (bce(D(real), torch.ones(16, 1)) + bce(D(fake.detach()), torch.zeros(16, 1))).backward()
    d.step()
    g.zero_grad()
    bce(D(fake), torch.ones(16, 1)).backward()
    g.step()
print("done")
