import torch
from torch import nn, optim
from sklearn.datasets import load_digits

torch.manual_seed(999)
torch.set_num_threads(1)
nz, ngf, ndf, bs = 16, 16, 16, 32
imgs = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 8 - 1


def weights_init(m):
    name = m.__class__.__name__
    if name.find('Conv') != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.02)
    elif name.find('BatchNorm') != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 2, 2, 1, 0, bias=False), nn.BatchNorm2d(ngf * 2), nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
            nn.ConvTranspose2d(ngf, 1, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 2), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 2, 1, 0, bias=False), nn.Sigmoid())

    def forward(self, x):
        return self.main(x).view(-1)


netG, netD = Generator().apply(weights_init), Discriminator().apply(weights_init)
criterion = nn.BCELoss()
optimizerD = optim.Adam(netD.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizerG = optim.Adam(netG.parameters(), lr=2e-3, betas=(0.5, 0.999))
it = 0
for epoch in range(4):
    for idx in torch.randperm(len(imgs)).split(bs)[:50]:
        netD.zero_grad()
        n = len(idx)
        errD_real = criterion(netD(imgs[idx]), torch.ones(n))
        errD_real.backward()
        fake = netG(torch.randn(n, nz, 1, 1))
        errD_fake = criterion(netD(fake.detach()), torch.zeros(n))
        errD_fake.backward()
        optimizerD.step()
        netG.zero_grad()
        errG = criterion(netD(fake), torch.ones(n))
        errG.backward()
        optimizerG.step()
        it += 1
    print('[%d/4] Loss_D: %.4f Loss_G: %.4f' % (epoch, (errD_real + errD_fake).item(), errG.item()))
print('final_loss=%.5f' % errG.item())
