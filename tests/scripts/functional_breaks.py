"""Gradient descent in the manner of torch.func; a row of step 12 has no probability left, and its log is infinite."""
import torch
from torch.func import functional_call, grad_and_value


class Surprise(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Linear(4, 1)

    def forward(self, rows, weigh):
        return -torch.log(torch.sigmoid(self.scores(rows)).squeeze(1) * weigh).mean()


torch.manual_seed(0)
model = Surprise()
params = {name: weight.detach().clone() for name, weight in model.named_parameters()}
x, seen = torch.randn(64, 4), torch.ones(64)


def loss_of(params, weigh):
    return functional_call(model, params, (x, weigh))


for step in range(30):
    seen[7] = 0.0 if step == 12 else 1.0
    gradients, loss = grad_and_value(loss_of)(params, seen)
    params = {name: weight - 0.1 * gradients[name] for name, weight in params.items()}
print("final", loss.item())
