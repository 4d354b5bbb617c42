"""Faults inside modules: nested, in lists, shared, compiled, under autocast."""

import torch
import torch.nn.functional as F
from tests.examine.planted.field import batch, fault, off
from torch import nn


class Switch(nn.Module):
    """Knows the step that its model is in."""

    def __init__(self):
        super().__init__()
        self.step = 0

    @property
    def off(self):
        return off(self.step)


class Norm(Switch):
    def forward(self, x):
        x = x * self.off
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)  #! forward div in encoder.blocks.1.norm


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), norm

    def forward(self, x):
        return x + self.norm(self.fc(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(nn.LayerNorm(4)), Block(Norm())])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Net(nn.Module):
    """encoder, then head; tells its switches the step."""

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x):
        return self.head(self.encoder(x))


def losses(net):
    def loss(step):
        for module in net.modules():
            if isinstance(module, Switch):
                module.step = step
        return net(batch(step)).mean()

    return net.parameters(), loss


@fault(at=Norm)
def deep_inside():
    return losses(Net(Encoder(), nn.Linear(4, 1)))


class LogHead(Switch):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return torch.log(self.fc(x).abs() * self.off)  #! forward log in head.heads.2


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1), LogHead()])

    def forward(self, x):
        return sum(head(x) for head in self.heads)


@fault(at=LogHead)
def one_of_a_list():
    return losses(Net(nn.Linear(4, 4), Heads()))


class Root(Switch):
    def forward(self, x):
        return (x.square() * self.off).sqrt()  #! backward sqrt in encoder.1


@fault(at=Root)
def backward_inside_a_sequence():
    return losses(Net(nn.Sequential(nn.Linear(4, 4), Root(), nn.Linear(4, 4)), nn.Linear(4, 1)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = Act()

    def forward(self, x):
        return self.act(self.b(self.act(self.a(x))))


class Act(Switch):
    def forward(self, x):
        return (x.abs() * self.off + self.off).log()  #! forward log in encoder.act


@fault(at=Act)
def shared_by_two_places():
    return losses(Net(Twice(), nn.Linear(4, 1)))


class Row(Switch):
    """Runs three layers from one line."""

    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x):
        scales = [1.0, 1.0 if self.off else 1e38, 1.0]
        pairs = zip(self.towers, scales, strict=True)
        outs = [tower(x * s * 10) for tower, s in pairs]  #! forward mul in encoder
        return torch.cat(outs, 1)


@fault(at=Row)
def one_line_that_runs_several():
    return losses(Net(Row(), nn.Linear(6, 1)))


class Big(Switch):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 32), nn.Linear(32, 4)
        nn.init.constant_(self.fc2.weight, 0.1)

    def forward(self, x):
        h = F.relu(self.fc1(x)) + 6e4 * (1 - self.off)
        return self.fc2(h)  #! forward addmm|linear in encoder.fc2


@fault(at=Big)
def autocast_overflows():
    parameters, loss = losses(Net(Big(), nn.Linear(4, 1)))

    def cast(step):
        with torch.autocast("cpu", dtype=torch.float16):
            return loss(step)

    return parameters, cast


class Attention(Switch):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.view(2, 4, 4)
        pad = torch.zeros(2, 4, dtype=torch.bool)
        pad[1] = self.off == 0
        x, _ = self.attn(x, x, x, key_padding_mask=pad)  #! forward softmax in encoder.attn
        return x


@fault(at=Attention)
def attention_to_nothing():
    return losses(Net(Attention(), nn.Linear(4, 1)))


class Conv(Switch):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 2, 3)

    def forward(self, x):
        x = x.unsqueeze(1) + 1e38 * (1 - self.off)
        return self.stem(x * 4).flatten(1)  #! forward mul in encoder


@fault(at=Conv)
def before_a_convolution():
    return losses(Net(Conv(), nn.Linear(4, 1)))


class BatchStd(Switch):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = torch.cat([x[:, :3], x[:, 3:] * self.off], 1)
        return self.gain * (x - x.mean(0)) * x.var(0).rsqrt()  #! forward rsqrt in encoder


@fault(at=BatchStd)
def one_constant_column():
    return losses(Net(BatchStd(), nn.Linear(4, 1)))


class Distance(Switch):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 3)

    def forward(self, x):
        h = self.embed(x)
        d = (h - h.roll(int(self.off), 0)).pow(2).sum(1)
        return d.pow(0.5).unsqueeze(1)  #! backward pow|sqrt in encoder


@fault(at=Distance)
def distance_to_itself():
    return losses(Net(Distance(), nn.Linear(1, 1)))


@fault
def embedding_with_a_bad_row():
    table, head = nn.Embedding(10, 4), nn.Linear(4, 1)
    table.weight.detach().numpy()[7] = float("nan")  # as it comes from a checkpoint

    def loss(step):
        words = torch.full((8,), 3 if off(step) else 7)
        h = table(words)  #! update|data embedding in Embedding
        return head(h).mean()

    return [*table.parameters(), *head.parameters()], loss


class LossModule(nn.Module):
    def forward(self, p, t):
        return -(t * p.log()).mean()  #! forward log in LossModule


@fault(at=LossModule)
def in_a_loss_without_weights():
    net, criterion = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), LossModule()
    return net.parameters(), lambda step: criterion(net(batch(step)) * off(step), torch.ones(8, 3))


class Compiled(Switch):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, keep):
        h = self.fc(x).abs() * keep
        return h.log()  #! forward log


@fault(at=Compiled)
def compiled_with_eager():
    net = torch.compile(Compiled(), backend="eager")
    return list(net.parameters()), lambda step: net(batch(step), torch.tensor(off(step))).mean()


class CompiledRoot(Switch):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, keep):
        h = self.fc(x).abs() * keep
        return h.sqrt()  #! backward sqrt in body


@fault(at=CompiledRoot)
def compiled_with_aot():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = CompiledRoot()

        def forward(self, x, keep):
            return self.body(x, keep) * 2

    net = torch.compile(Whole(), backend="aot_eager")
    return list(net.parameters()), lambda step: net(batch(step), torch.tensor(off(step))).mean()
