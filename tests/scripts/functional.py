"""Gradient descent in the manner of torch.func: parameters in a dictionary, a vmapped model; diverges."""
import torch
from torch.func import functional_call, grad, grad_and_value, vmap

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
params = {name: weight.detach().clone() for name, weight in model.named_parameters()}
x = torch.randn(32, 3)
y = x.sum(1)


def predict(params, row):
    return functional_call(model, params, (row[None],)).squeeze()


def slope(params, row):
    return grad(predict, argnums=1)(params, row).square().sum()


def loss_of(params):
    return (vmap(predict, (None, 0))(params, x) - y).square().mean() + 0.01 * vmap(slope, (None, 0))(params, x).mean()


steepness = grad(lambda rows: vmap(predict, (None, 0))(params, rows).sum())(x)
for step in range(40):
    gradients, loss = grad_and_value(loss_of)(params)
    params = {name: weight - 3.0 * gradients[name] for name, weight in params.items()}
print("final", loss.item())
