"""The second moment remembers a calm that is over: gradients grow a thousandfold, and Adam's steps with them."""
import torch

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x @ torch.randn(8, 1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.9, 0.99999))
for step in range(400):
    i = torch.randint(0, 512, (64,))
    scale = 0.3 if step < 355 else 10.0  # the units of the measurement change
    loss = (model(scale * x[i]) - scale * y[i]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
