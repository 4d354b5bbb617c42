# polynomial of degree 5 fitted by a loop without torch.optim, "learning pytorch with examples" style
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.linspace(-2, 2, 400)
y = torch.sin(2 * x)
coef = [torch.randn((), requires_grad=True) for _ in range(6)]
learning_rate = 1.5e-2
for t in range(300):
    y_pred = sum(c * x ** k for k, c in enumerate(coef))
    loss = (y_pred - y).pow(2).mean()
    if t % 10 == 9:
        print(t, loss.item())
    loss.backward()
    with torch.no_grad():
        for c in coef:
            c -= learning_rate * c.grad
            c.grad = None
print(f'final_loss={loss.item()}')
