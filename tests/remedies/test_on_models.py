"""What a user may rely on when a remedy changes the model from outside."""

from __future__ import annotations

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gradbelt.supervise.rehearse import rehearse

ON_MODELS = (
    "lsuv", "norm_layer", "activation_swap", "skip_connection", "residual_scale", "gated_rnn", "qk_norm",
    "logit_scaling",
)  # fmt: skip


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.up, self.down = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Everything(nn.Module):
    """Convolution, batch norm, dropout, a recurrent layer, residual blocks, attention, a stored state, a tied head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.Tanh(), nn.Conv1d(8, 8, 1))
        self.dropout = nn.Dropout(0.5)
        self.rnn = nn.RNN(8, 8, batch_first=True)
        self.deep = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(8, 8), nn.Tanh())))
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.tied = nn.Linear(8, 8, bias=False)
        self.out = nn.Linear(8, 4)
        self.tied.weight = self.deep[0].weight
        self.seen, self.calls = [], 0

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        x += 0.0
        h = self.dropout(torch.relu(self.conv(x))).transpose(1, 2)
        h, state = self.rnn(h)
        self.state = state.detach()
        h = self.blocks(self.deep(h))
        h = h + self.attention(h, h, h)[0]
        random.random(), np.random.rand()
        return self.out(self.tied(h).mean(1))


def data():
    return torch.randn(6, 3, 5), torch.randint(0, 4, (6,))


def train(model, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        x, y = data()
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


def layers(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


# --------------------------------------------------------------------------------------------------------- rehearsal


def test_a_rehearsal_leaves_no_trace():
    """Random numbers of torch, Python and NumPy, buffers, attributes and arguments are what they were."""
    torch.manual_seed(0)
    model = Everything()
    x = torch.ones(6, 3, 5)
    before = (
        copy.deepcopy(model.state_dict()),
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].copy(),
    )
    version = x._version
    course = rehearse(model, (x,), {})
    assert len(course.calls) > 20
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), model.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    assert (np.random.get_state()[1] == before[3]).all()
    assert x._version == version
    assert (model.calls, model.seen, hasattr(model, "state")) == (0, [], False)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_course_is_in_the_order_of_the_calls_and_knows_the_head():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.twice = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.last(self.twice(self.twice(torch.relu(self.first(x)))))

    model = Net()
    course = rehearse(model, (torch.randn(2, 4),), {})
    assert [call.module or call.name for call in course.calls] == [
        model.first,
        "relu",
        model.twice,
        model.twice,
        model.last,
    ]
    assert [call.module for call in course.layers()] == [model.first]  # not the output, not what runs twice
    assert "test_on_models.py:" in course.calls[1].site


def test_residual_sums_are_told_from_other_sums():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = self.a(x) + 1.0
            x = x + self.b(x) * 0.5
            return self.c(x) + torch.ones(4)

    model = Net()
    (branch,) = rehearse(model, (torch.randn(2, 4),), {}).branches()
    assert [call.module for call in branch.inside if call.module] == [model.b]


# -------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("remedy", ["", *ON_MODELS, "he_init", "lsuv+skip_connection+norm_layer"])
def test_the_script_draws_the_same_numbers(fit, remedy):
    """Batches, dropout and initialisations later on are those of the unchanged run; and the run goes through."""
    patient = fit(remedy)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model = Everything()
    assert math.isfinite(train(model))
    numbers = torch.rand(()).item(), random.random(), np.random.rand()
    assert numbers == pytest.approx(UNCHANGED, abs=0)
    assert model.calls == 3
    patient._end()
    assert patient.said == []  # nothing failed, and each remedy found something to do


UNCHANGED = None


@pytest.fixture(autouse=True, scope="module")
def _unchanged():
    global UNCHANGED
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    train(Everything())
    UNCHANGED = torch.rand(()).item(), random.random(), np.random.rand()


@pytest.mark.parametrize("remedy", ["lsuv", "norm_layer", "skip_connection", "residual_scale", "he_init"])
def test_a_copy_of_a_model_is_not_changed_again(fit, remedy):
    """An average or a target network that the script makes of its model computes what the model does."""
    fit(remedy)
    model = Everything()
    x, _ = data()
    train(model)
    model.eval()
    twin = copy.deepcopy(model)
    revived = pickle.loads(pickle.dumps(model))
    expected = model(x.clone())
    assert torch.equal(twin(x.clone()), expected)
    assert torch.equal(revived(x.clone()), expected)


@pytest.mark.parametrize("remedy", ["lsuv", "residual_scale", "norm_layer", "skip_connection", "activation_swap"])
def test_a_model_from_a_checkpoint_is_left_alone(fit, remedy):
    patient = fit(remedy)
    model, twin = Everything(), Everything()
    model.load_state_dict(twin.state_dict())
    x, _ = data()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    model(x)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    patient._end()
    assert any("nothing to do" in line for line in patient.said)


class Odd(nn.Module):
    """Keyword arguments, a dict of results, and layers that nothing registers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.hidden = [nn.Linear(4, 4)]

    def __call__(self, **kwargs):
        return super().__call__(**kwargs)

    def forward(self, *, x):
        return {"y": self.hidden[0](x @ self.weight)}


def _odd_models():
    yield "one layer", nn.Linear(4, 4), lambda m, x: m(x)
    yield "odd", Odd(), lambda m, x: m(x=x)["y"]
    yield "scripted", torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))), lambda m, x: m(x)
    compiled = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), backend="eager")
    yield "compiled", compiled, lambda m, x: m(x)
    yield "lazy", nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(4)), lambda m, x: m(x)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    yield "computed weight", nn.Sequential(normed, nn.Tanh(), nn.Linear(4, 4)), lambda m, x: m(x)
    frozen = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    frozen[0].requires_grad_(False)
    yield "frozen", frozen, lambda m, x: m(x)
    half = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).bfloat16()
    yield "bfloat16", half, lambda m, x: m(x.bfloat16()).float()


@pytest.mark.parametrize("remedy", ON_MODELS)
def test_a_model_that_cannot_be_helped_runs_as_it_did(fit, remedy):
    for name, model, run in _odd_models():
        patient = fit(remedy)
        x = torch.randn(5, 4)
        run(model, x)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
        loss = run(model, x).square().mean()
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss), name
        assert not any("unwatched" in line for line in patient.said), (name, patient.said)
        patient._end()


def test_a_model_that_cannot_be_rehearsed_is_left_alone_and_told(fit):
    """One that would use up what it is given, and one that raises when it runs for the first time."""
    layer, runs = nn.Linear(4, 4), []

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, batches):
            return self.layer(next(batches))

    class Raises(Reads):
        def forward(self, x):
            runs.append(x)
            if len(runs) == 1:
                raise RuntimeError
            return self.layer(x)

    x = torch.randn(2, 4)
    for model, given, why in ((Reads(), iter([x]), "iterator"), (Raises(), x, "raised RuntimeError")):
        patient = fit("norm_layer")
        assert torch.equal(model(given), layer(x))
        patient._end()
        assert any(why in line for line in patient.said)


# ------------------------------------------------------------------------------------------------------ one by one


def hidden(model, x):
    """What each linear layer hands on, hooks included."""
    found = {}
    handles = [m.register_forward_hook(lambda m, _, y: found.__setitem__(m, y.detach())) for m in layers(model)]
    model(x)
    for handle in handles:
        handle.remove()
    return list(found.values())


def plain(depth=4, n=32, activation=nn.ReLU, std=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(n, n), activation())), nn.Linear(n, 4))
    for layer in layers(model):
        nn.init.normal_(layer.weight, std=std)
    return model


def test_lsuv_gives_every_hidden_output_variance_one_on_the_first_batch(fit):
    fit("lsuv")
    model = plain()
    head = model[-1].weight.clone()
    *inner, _ = hidden(model, torch.randn(64, 32))
    assert all(abs(float(y.var()) - 1.0) < 0.1 for y in inner)
    assert torch.equal(model[-1].weight, head)


def test_lsuv_is_orthogonal_up_to_its_scale(fit):
    fit("lsuv")
    model = plain()
    model(torch.randn(64, 32))
    square = model[2].weight @ model[2].weight.T
    torch.testing.assert_close(square / square[0, 0], torch.eye(32), atol=1e-4, rtol=0)


def test_a_norm_stands_between_hidden_layers_and_their_activations_only(fit):
    fit("norm_layer")
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16), nn.Dropout(0.0),
        nn.Tanh(), nn.Linear(16, 4),
    )  # fmt: skip
    first, second, third, last = hidden(model, 100 * torch.randn(64, 8))
    for y in (first, third):
        torch.testing.assert_close(y.mean(-1), torch.zeros(64), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(64), atol=1e-2, rtol=0)
    assert second.mean(-1).abs().max() > 1e-3
    assert last.mean(-1).abs().max() > 1e-3
    assert len(list(model.parameters())) == 10


def test_a_norm_over_several_dimensions_is_a_norm_too(fit):
    fit("norm_layer")
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm((5, 16)), nn.ReLU(), nn.Linear(16, 4))
    first, _ = hidden(model, 100 * torch.randn(3, 5, 8))
    assert first.mean(-1).abs().max() > 1e-3


def test_a_convolution_gets_a_group_norm_with_groups_that_divide_its_channels(fit):
    fit("norm_layer")
    model = nn.Sequential(
        nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    found = []
    model[0].register_forward_hook(lambda m, _, y: found.append(y))
    model(50 * torch.randn(3, 1, 8, 8))
    torch.testing.assert_close(found[-1], functional.group_norm(found[-1], 5), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("remedy", ["skip_connection", "skip_connection+norm_layer", "norm_layer+skip_connection"])
def test_a_skip_connection_goes_around_layer_and_norm(fit, remedy):
    fit(remedy)
    model = plain(depth=4, n=8, activation=nn.Tanh)
    x = torch.randn(16, 8)
    model(x)
    inner = functional.linear(x, model[0].weight, model[0].bias)
    if "norm" in remedy:
        inner = functional.layer_norm(inner, (8,))
    torch.testing.assert_close(model[0](x), x + inner / math.sqrt(4))


def test_repeated_blocks_are_passed_as_wholes_and_residual_ones_not_at_all(fit):
    fit("skip_connection")

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    model = nn.Sequential(Step(), Step(), Step(), Block(8), Block(8), nn.Linear(8, 2))
    model(torch.randn(4, 8))
    assert [bool(module._forward_hooks) for module in model] == [True, True, True, False, False, False]
    assert not any(layer._forward_hooks for layer in layers(model))


def test_residual_branches_start_smaller_by_the_root_of_their_number(fit):
    fit("residual_scale")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), *(Block(8) for _ in range(9)), nn.Linear(8, 2))
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 8))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] / 3 if ".down." in name else before[name])


def test_hidden_activations_are_swapped_and_no_others(fit):
    fit("activation_swap")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.gate, self.out = (nn.Linear(8, 8) for _ in range(4))
            self.inner, self.outer = nn.Sigmoid(), nn.Sigmoid()

        def forward(self, x):
            h = self.inner(self.a(x))
            self.kept = h
            h = torch.tanh(self.b(h))
            self.kept2 = h
            g = torch.sigmoid(self.gate(h))
            self.kept3 = g
            return self.outer(self.out(h * g))

    model = Net()
    x = 5 * torch.randn(64, 8)
    y = model(x)
    assert model.kept.max() > 1
    assert type(model.inner) is nn.LeakyReLU
    assert model.kept2.min() >= -1  # goes to a gate as well: it stays
    assert 0 <= model.kept3.min() <= model.kept3.max() <= 1
    assert 0 <= y.min() <= y.max() <= 1


def test_a_function_between_layers_is_swapped_at_its_line(fit):
    fit("activation_swap")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            self.kept = torch.tanh(self.a(x))
            return torch.tanh(self.b(self.kept))

    model = Net()
    y = model(20 * torch.randn(64, 8))
    assert model.kept.max() > 1
    assert y.abs().max() <= 1
    assert float(torch.tanh(torch.tensor(3.0))) < 1  # elsewhere it is what it was


RNNS = {
    "plain": {}, "batch first": {"batch_first": True}, "deep": {"num_layers": 3, "dropout": 0.2},
    "both ways": {"bidirectional": True}, "relu, no bias": {"nonlinearity": "relu", "bias": False},
    "deep both ways": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}  # fmt: skip


@pytest.mark.parametrize("options", RNNS.values(), ids=RNNS)
def test_a_gated_layer_keeps_the_contract_of_the_plain_one(fit, options):
    before = nn.RNN(3, 5, **options)
    patient = fit("gated_rnn")
    model = nn.RNN(3, 5, **options)
    assert type(model) is nn.GRU
    x = torch.randn(4, 4, 3)
    h0 = torch.randn(before(x)[1].shape)
    for given in ((x,), (x, h0)):
        shapes = [[t.shape for t in layer(*given)] for layer in (before, model)]
        assert shapes[0] == shapes[1]
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in before.named_parameters()]
    model(x, h0)[0].sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    patient._end()
    assert type(nn.RNN(3, 5)) is nn.RNN


def test_a_gated_layer_computes_what_torchs_does(fit):
    fit("gated_rnn")
    model, cell = nn.RNN(3, 5, 2), nn.RNNCell(3, 5)
    twin, twin_cell = nn.GRU(3, 5, 2), nn.GRUCell(3, 5)
    twin.load_state_dict(model.state_dict())
    twin_cell.load_state_dict(cell.state_dict())
    x = torch.randn(4, 2, 3)
    assert torch.equal(model(x)[0], twin(x)[0])
    assert torch.equal(cell(x[0]), twin_cell(x[0]))


def test_a_checkpoint_of_a_plain_layer_makes_it_plain_again(fit):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(3, 5)

    saved = Net()
    patient = fit("gated_rnn")
    model = Net()
    model.load_state_dict(saved.state_dict())
    x = torch.randn(4, 2, 3)
    assert type(model.rnn) is nn.RNN
    assert torch.equal(model.rnn(x)[0], saved.rnn(x)[0])
    patient._end()
    assert any("nothing to do" in line for line in patient.said)


def writes(layer, weight):
    layer.weight_hh_l0.data.copy_(weight)


def writes_within(layer, weight):
    with torch.no_grad():
        layer.weight_hh_l0[:] = weight


def puts_data(layer, weight):
    layer.weight_hh_l0.data = weight


def puts_parameter(layer, weight):
    layer.weight_hh_l0 = nn.Parameter(weight)


@pytest.mark.parametrize("write", [writes, writes_within, puts_data, puts_parameter])
def test_a_weight_that_the_script_writes_is_that_of_the_new_state(fit, write):
    """In the shape that it has in a plain layer; the gates keep theirs, and who holds the parameters the new ones."""
    patient = fit("gated_rnn")
    model = nn.RNN(3, 5)
    gates = model.weight_hh_l0.detach()[:10].clone()
    write(model, torch.eye(5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert torch.equal(model.weight_hh_l0, torch.cat([gates, torch.eye(5)]))
    model(torch.randn(4, 2, 3))[0].sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight_hh_l0[10:], torch.eye(5))
    patient._end()
    assert not any("nothing to do" in line for line in patient.said)


def test_what_is_written_elsewhere_stays_what_it_is(fit):
    """Another tensor of that shape, and a part of the weight of another shape."""
    fit("gated_rnn")
    model, other = nn.RNN(3, 5), torch.zeros(15, 5)
    with pytest.raises(RuntimeError):
        other.copy_(torch.eye(5))
    with torch.no_grad():
        model.weight_hh_l0[0] = torch.zeros(5)
    assert model.weight_hh_l0[0].abs().sum() == 0 < model.weight_hh_l0[1].abs().sum()


def test_queries_and_keys_of_any_size_give_bounded_logits_in_every_way_to_write_attention(fit):
    """Scaled up a thousandfold, they attend as before; and all ways agree."""

    class Hand(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(8, 8)

        def forward(self, q, k, v):
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            return self.w(torch.softmax(scores, -1) @ v)

    class Fused(Hand):
        def forward(self, q, k, v):
            return self.w(functional.scaled_dot_product_attention(q, k, v))

    hand, fused = Hand(), Fused()
    fused.load_state_dict(hand.state_dict())
    fit("qk_norm")
    q, k, v = torch.randn(3, 2, 6, 8).unbind(0)
    y = hand(q, k, v)
    torch.testing.assert_close(hand(1000 * q, 1000 * k, v), y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fused(q, k, v), y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention_is_normed_head_by_head(fit, weights):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 5, 8)
    q, k, v = functional.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
    q, k = functional.rms_norm(q, (4,), eps=1e-6), functional.rms_norm(k, (4,), eps=1e-6)
    y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    expected = module.out_proj(y)
    fit("qk_norm")
    torch.testing.assert_close(module(x, x, x, need_weights=weights)[0], expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        evaluated = module.eval()(x, x, x, need_weights=weights)[0]
    torch.testing.assert_close(evaluated, expected, atol=1e-5, rtol=1e-5)


def losses(logits, target):
    yield functional.cross_entropy(logits, target)
    yield nn.CrossEntropyLoss()(logits, target)
    yield functional.nll_loss(torch.log_softmax(logits, -1), target)
    yield functional.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def test_logits_within_the_bound_stay_bit_for_bit(fit):
    logits, target = 100 * torch.randn(8, 5), torch.randint(0, 5, (8,))
    before = list(losses(logits, target))
    fit("logit_scaling=1e30")
    assert all(torch.equal(a, b) for a, b in zip(before, losses(logits, target), strict=True))


def test_larger_logits_are_scaled_row_by_row_and_keep_a_gradient(fit):
    logits, target = torch.tensor([[1000.0, -500.0, 0.0], [1.0, 2.0, 3.0]]), torch.tensor([1, 0])
    bounded = torch.tensor([[30.0, -15.0, 0.0], [1.0, 2.0, 3.0]])
    before = list(losses(bounded, target))
    fit("logit_scaling")
    assert all(torch.allclose(a, b) for a, b in zip(before, losses(logits, target), strict=True))
    logits.requires_grad_()
    functional.cross_entropy(logits, target).backward()
    assert (logits.grad[0].abs() > 1e-3).any()


def test_a_remedy_that_fails_at_the_end_costs_no_more_than_what_it_had_to_say(fit):
    """Everything that was put on the script comes off all the same."""
    patient, off = fit("lsuv"), []
    patient.at_end.append(lambda: {}["nothing"])
    patient.around.callback(off.append, True)
    patient._end()
    assert off == [True]
    assert any("KeyError" in line for line in patient.said)
