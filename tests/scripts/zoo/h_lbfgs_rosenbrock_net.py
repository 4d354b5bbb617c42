import torch
import torch.nn as nn
torch.manual_seed(6)
torch.set_num_threads(1)

# PINN in miniature: u'' + u = 0 on [0, 2pi], u(0)=0, u'(0)=1; Adam first, then L-BFGS
net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
x = torch.linspace(0, 6.2832, 80).reshape(-1, 1).requires_grad_(True)
x0 = torch.zeros(1, 1, requires_grad=True)


def d(u, x):
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def residual_loss():
    u = net(x)
    ux = d(u, x)
    uxx = d(ux, x)
    u0 = net(x0)
    return (uxx + u).pow(2).mean() + 10 * (u0.pow(2).mean() + (d(u0, x0) - 1).pow(2).mean())


adam = torch.optim.Adam(net.parameters(), lr=5e-3)
for i in range(150):
    adam.zero_grad()
    loss = residual_loss()
    loss.backward()
    adam.step()
print('after Adam', loss.item())

lbfgs = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=20, history_size=20, line_search_fn='strong_wolfe')


def closure():
    lbfgs.zero_grad()
    l = residual_loss()
    l.backward()
    return l


for i in range(12):
    loss = lbfgs.step(closure)
    print('lbfgs', i, loss.item())
print('final_loss=%.8f' % loss.item())
