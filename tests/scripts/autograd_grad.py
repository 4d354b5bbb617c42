"""Gradient descent through torch.autograd.grad: no optimizer, no backward, no .grad; diverges."""
import torch

torch.manual_seed(0)
layer = torch.nn.Linear(3, 1)
weights = list(layer.parameters())
x = torch.randn(32, 3)
y = x.sum(1, keepdim=True)
for step in range(40):
    loss = (layer(x) - y).square().mean()
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients):
            weight -= 3.0 * gradient
print("final", loss.item())
